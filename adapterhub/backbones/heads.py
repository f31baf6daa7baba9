"""A task's head on the backbone's body: transformers' own classes around one shared body."""

from __future__ import annotations

import copy
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

#: Names that transformers gives to the linear layer of a new head.
HEAD_NAMES = ("score", "classifier", "qa_outputs")

_AUTO_CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "image": AutoModelForImageClassification,
}


def stock_model(backbone: Backbone, head: HeadKind, labels: Sequence[str]) -> PreTrainedModel:
    """Return transformers' own class for the task, built around the backbone's body.

    The body is shared, not copied. A new head is in float32 and drawn from torch's
    generator; a language model keeps the backbone's own head.

    Raises:
        BackboneError: when the architecture has no such head, or one that adapterhub
            can't evaluate on packed rows.
    """
    config = copy.deepcopy(backbone.config)
    if head != "causal_lm":
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.device("meta"):
        stock = stock_class(config, head, backbone.name)(config)
    prefix = stock.base_model_prefix
    setattr(stock, prefix, _body_for(getattr(stock, prefix), backbone.body))
    if head == "causal_lm":
        stock.set_output_embeddings(backbone.lm_head)
    else:
        _new_head(stock, backbone)
    # peft writes this name into the adapter's configuration
    stock.name_or_path = backbone.hub_id or backbone.name
    return stock.eval()


def stock_class(config: PretrainedConfig, head: HeadKind, place: str) -> type[PreTrainedModel]:
    """Return transformers' own class for the task on an architecture.

    Raises:
        BackboneError: when the architecture has no such head.
    """
    mapping = _AUTO_CLASSES[head]._model_mapping
    if type(config) not in mapping:
        raise BackboneError(
            f"the architecture {config.model_type!r} has no {head} head", place=place
        )
    found: Any = mapping[type(config)]
    # of DeiT there are two, the second for its teacher
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


def head_name(stock: nn.Module) -> str | None:
    """Return the name of the new head's linear layer, or ``None`` for a language model."""
    found = [name for name in HEAD_NAMES if isinstance(getattr(stock, name, None), nn.Module)]
    return found[0] if found else None


class StockHead:
    """Computes what the class's own ``forward`` computes from the same positions.

    That is pooler and dropout for encoders, the bare linear layer for decoders. A new head
    runs in its own type, float32.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._name = head_name(stock)

    @property
    def frozen_weight(self) -> nn.Parameter | None:
        """The vocabulary's matrix of a language model; ``None`` for a head that learns."""
        if self._name is not None:
            return None
        layer = self._stock.get_output_embeddings()
        weight = getattr(layer, "weight", None)
        if weight is None or type(layer) is not nn.Linear or layer.bias is not None:
            return None
        return None if weight.requires_grad else weight

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[n, hidden]`` to logits ``[n, classes]``."""
        stock = self._stock
        if self._name is None:
            return stock.get_output_embeddings()(hidden)
        features = self.features(hidden)
        dropout = getattr(stock, "dropout", None)
        return getattr(stock, self._name)(features if dropout is None else dropout(features))

    def features(self, hidden: Tensor) -> Tensor:
        """Return what the linear layer of a new head reads of ``[n, hidden]``, in its type."""
        stock = self._stock
        body = getattr(stock, stock.base_model_prefix)
        if getattr(body, "pooler", None) is not None:
            hidden = body.pooler(hidden.unsqueeze(1))
        linear = getattr(stock, self._name) if self._name else stock.get_output_embeddings()
        return hidden.to(next(linear.parameters()).dtype)


def _body_for(template: nn.Module, body: nn.Module) -> nn.Module:
    """Return the body, seen without its pooler where the class has none."""
    if getattr(template, "pooler", None) is not None or getattr(body, "pooler", None) is None:
        return body
    return without_pooler(body)


def without_pooler(body: nn.Module) -> nn.Module:
    """Return the body, which is shared, seen without its pooler."""
    view = copy.copy(body)
    # copy.copy shares the dictionary of children, and the pooler goes from the view alone
    view._modules = {**body._modules, "pooler": None}
    return view


def _new_head(stock: PreTrainedModel, backbone: Backbone) -> None:
    name = head_name(stock)
    linear = getattr(stock, name) if name else None
    if not isinstance(linear, nn.Linear):
        raise BackboneError(
            f"the head of {type(stock).__name__} is of a kind that is not supported",
            place=backbone.name,
            hint="Supported: BERT-like encoders, and others whose head is one linear layer",
        )
    linear.to_empty(device=backbone.device)
    with torch.no_grad():
        linear.weight.data = torch.empty_like(linear.weight, dtype=torch.float32)
        linear.weight.normal_(std=getattr(stock.config, "initializer_range", 0.02))
        if linear.bias is not None:
            linear.bias.data = torch.zeros_like(linear.bias, dtype=torch.float32)
