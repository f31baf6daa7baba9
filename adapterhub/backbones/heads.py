"""Task heads: transformers' own classes built around the backbone's shared base model."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.tasks.base import HeadKind

#: Names of the linear layer of a new head in transformers' classes.
HEAD_NAMES = ("score", "classifier", "qa_outputs")

_INSTEAD = ", or a task that generates text on a decoder"
_AUTO_CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "image": AutoModelForImageClassification,
}


def build_head_model(backbone: Backbone, head: HeadKind, labels: Sequence[str]) -> PreTrainedModel:
    """Return transformers' class for a task, built around the backbone's base model.

    The base model is shared, not copied. A new head is float32 and initialised from torch's global
    generator; a causal LM keeps the backbone's own head.
    """
    config = copy.deepcopy(backbone.config)
    if head != "causal_lm":
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.device("meta"):
        model = head_model_class(config, head, backbone.name)(config)
    prefix = model.base_model_prefix
    base_model, template = backbone.base_model, getattr(model, prefix)
    if getattr(template, "pooler", None) is None and _has_pooler(base_model):
        base_model = without_pooler(base_model)
    setattr(model, prefix, base_model)
    if head == "causal_lm":
        model.set_output_embeddings(backbone.lm_head)
    else:
        _initialize_head(model, backbone)
    # peft writes this name into the adapter's configuration
    model.name_or_path = backbone.hub_id or backbone.name
    return model.eval()


def head_model_class(config: PretrainedConfig, head: HeadKind, place: str) -> type[PreTrainedModel]:
    """Return transformers' class for a head on an architecture."""
    mapping = _AUTO_CLASSES[head]._model_mapping
    if type(config) not in mapping:
        raise BackboneError(
            f"the architecture {config.model_type!r} has no {head} head",
            place=place,
            hint=f"transformers has no class of it for this task; use another backbone{_INSTEAD}",
        )
    found: Any = mapping[type(config)]
    # DeiT has two, the second for distillation
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


def head_name(model: nn.Module) -> str | None:
    """Return the name of a new head's linear layer, or ``None`` for a causal LM."""
    found = [name for name in HEAD_NAMES if isinstance(getattr(model, name, None), nn.Module)]
    return found[0] if found else None


def _has_pooler(base_model: nn.Module) -> bool:
    return getattr(base_model, "pooler", None) is not None


def without_pooler(base_model: nn.Module) -> nn.Module:
    """Return a view of a base model, which is shared, without its pooler."""
    view = copy.copy(base_model)
    # copy.copy shares the dictionary of children, and the pooler is removed from the view alone
    view._modules = {**base_model._modules, "pooler": None}
    return view


def _initialize_head(model: PreTrainedModel, backbone: Backbone) -> None:
    name = head_name(model)
    linear = getattr(model, name) if name else None
    empty = {parameter for parameter in model.parameters() if parameter.is_meta}
    if not isinstance(linear, nn.Linear) or empty != set(linear.parameters()):
        raise BackboneError(
            f"the head of {type(model).__name__} is not supported",
            place=backbone.name,
            hint="Supported: BERT-like encoders, and others whose head is one linear layer",
        )
    linear.to_empty(device=backbone.device)
    with torch.no_grad():
        linear.weight.data = torch.empty_like(linear.weight, dtype=torch.float32)
        linear.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if linear.bias is not None:
            linear.bias.data = torch.zeros_like(linear.bias, dtype=torch.float32)


class TextHead:
    """The head of a text model, applied to selected positions.

    It computes what the ``forward`` of the model's class does: pooler and dropout for encoders, the
    linear layer alone for decoders. A new head runs in its own type, float32.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._name = head_name(model)

    @property
    def frozen_weight(self) -> nn.Parameter | None:
        """The frozen output embeddings ``[vocab_size, hidden]`` of a causal LM, else ``None``."""
        if self._name is not None:
            return None
        layer = self._model.get_output_embeddings()
        weight = getattr(layer, "weight", None)
        if weight is None or type(layer) is not nn.Linear or layer.bias is not None:
            return None
        return None if weight.requires_grad else weight

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[n, hidden]`` to logits ``[n, classes]``."""
        model = self._model
        if self._name is None:
            return model.get_output_embeddings()(hidden)
        features = self.features(hidden)
        dropout = getattr(model, "dropout", None)
        return getattr(model, self._name)(features if dropout is None else dropout(features))

    def features(self, hidden: Tensor) -> Tensor:
        """Return the input of the linear layer for hidden states ``[n, hidden]``, in its type."""
        model = self._model
        base_model = getattr(model, model.base_model_prefix)
        if _has_pooler(base_model):
            hidden = base_model.pooler(hidden.unsqueeze(1))
        linear = getattr(model, self._name) if self._name else model.get_output_embeddings()
        return hidden.to(next(linear.parameters()).dtype)


class VisionHead:
    """The linear layer of an image-classification model, in its own type, float32."""

    #: The head is always trained.
    frozen_weight: nn.Parameter | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(self, features: Tensor) -> Tensor:
        """Map ``image_features`` ``[n, features]`` to logits ``[n, classes]``."""
        linear = _vision_head(self._model)
        return linear(features.to(next(linear.parameters()).dtype))


def image_features(model: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Return the input of an image-classification model's head, ``[num_images, features]``.

    The class's own ``forward`` runs, and the input of the head is captured there: architectures
    compute it in different ways (class token, mean of the patches, both, pooled maps).

    Args:
        pixels: ``[num_images, channels, height, width]`` in the compute type.
    """
    head = _vision_head(model)
    inputs: list[Tensor] = []

    def capture(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(args[0])
        # the head has a type of its own
        return (args[0].to(next(module.parameters()).dtype),)

    # a ViT interpolates its position embeddings for other image sizes on request; other
    # architectures always do, and at the training size nothing changes
    interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    handle = head.register_forward_pre_hook(capture)
    try:
        model(pixel_values=pixels, **({"interpolate_pos_encoding": True} if interpolates else {}))
    finally:
        handle.remove()
    return inputs[0]


def image_feature_width(model: PreTrainedModel) -> int:
    """Return the number of input features of an image-classification model's head."""
    return int(_vision_head(model).get_parameter("weight").shape[1])


def _vision_head(model: PreTrainedModel) -> nn.Module:
    found: nn.Module = getattr(model, str(head_name(model)))
    return found
