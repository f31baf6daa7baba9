"""Training model: a task's head and a peft adapter on the shared, frozen backbone."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.adapters.target_modules import resolve_target_modules
from adapterhub.adapters.tensor_checks import check_tensors_match
from adapterhub.backbones.compatibility import check_prefix_fits
from adapterhub.backbones.fused_lora import fuse_lora_layers
from adapterhub.backbones.heads import (
    TextHead,
    VisionHead,
    build_head_model,
    head_name,
    image_features,
)
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.errors import RecipeError, StrictLoadError
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import ATTENTION_NAME, install_attention
from adapterhub.specs import LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import PackedBatch
    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind

#: What is trained: adapter and head; the head alone; adapter, head and norm layers.
TrainableParts = Literal["adapter", "head", "adapter_and_norms"]


class TaskModel(nn.Module):
    """A peft model on the shared base model that applies the head where the task reads it.

    ``close`` restores the base model.

    Args:
        peft_model: peft's model around a model of ``build_head_model``.
    """

    def __init__(self, peft_model: PeftModel, backbone: Backbone, adapter_name: str) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.backbone = backbone
        self.adapter_name = adapter_name
        self._prefix_disabled = False

    @property
    def head_model(self) -> Any:
        """transformers' model for the task, with the adapter's layers injected."""
        return self.peft_model.get_base_model()

    @property
    def head(self) -> TextHead | VisionHead:
        """The head, with the adapter's own weights if it has any."""
        vision = self.backbone.kind == "vision"
        return VisionHead(self.head_model) if vision else TextHead(self.head_model)

    @property
    def is_prefix(self) -> bool:
        """Whether the adapter is a prefix, which changes no layer of the base model."""
        return bool(self.peft_model.active_peft_config.is_prompt_learning)

    def set_head_bias(self, values: Sequence[float]) -> None:
        """Set the bias of a new head, one value per output; a head without a bias is unchanged."""
        name = head_name(self.head_model)
        if name is None:
            return
        layer = getattr(self.head_model, name)
        wrapped = isinstance(layer, ModulesToSaveWrapper)
        linear = layer.modules_to_save[self.adapter_name] if wrapped else layer
        if linear.bias is not None:
            with torch.no_grad():
                linear.bias.copy_(torch.tensor(values))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the input embeddings of tokens, ``[num_tokens, hidden]``."""
        embedded: Tensor = self.head_model.get_input_embeddings()(input_ids)
        return embedded

    def hidden(self, batch: PackedBatch, embedded: Tensor | None = None) -> Tensor:
        """Return the last hidden states at ``batch.select``, ``[num_selected, hidden]``.

        For images, the ``image_features`` ``[num_images, features]``.

        Args:
            embedded: Input embeddings to use instead of those of the batch's tokens, including
                padding, ``[num_tokens, hidden]``.
        """
        model = self.head_model
        if batch.pixels is not None:
            dtype = torch_dtype(self.backbone.quantization.compute_dtype)
            return image_features(model, batch.pixels.to(dtype))
        inputs: dict[str, Any] = {}
        if embedded is None:
            inputs["input_ids"] = batch.input_ids.unsqueeze(0)
        else:
            inputs["inputs_embeds"] = embedded.unsqueeze(0)
        positions = batch.position_ids
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        if self.is_prefix and not self._prefix_disabled:
            inputs["past_key_values"] = self.peft_model.get_prompt(batch_size=1)
            positions = positions + self.peft_model.active_peft_config.num_virtual_tokens
        if self.backbone.kind == "decoder":
            inputs["use_cache"] = False
        output = getattr(model, model.base_model_prefix)(
            position_ids=positions.unsqueeze(0),
            # a four-dimensional mask is passed on unchanged; attention uses the lengths instead
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device),
            packed=PackedSequences(batch.lengths),
            **inputs,
        )
        return output.last_hidden_state[0, batch.select]

    def forward(
        self,
        batch: PackedBatch,
        loss: Callable[[TextHead | VisionHead, Tensor, PackedBatch], Tensor],
    ) -> Tensor:
        """Return the summed loss of a batch as a scalar."""
        return loss(self.head, self.hidden(batch), batch)

    def train(self, mode: bool = True) -> TaskModel:
        """Set the mode of adapter and head; the base model stays in evaluation mode.

        Its dropout layers are meant for training all of its weights. An adapter is regularised by
        its own dropout.
        """
        super().train(mode)
        self.backbone.base_model.eval()
        for module in self.backbone.base_model.modules():
            if isinstance(module, BaseTunerLayer):
                for name in (*module.adapter_layer_names, "lora_dropout"):
                    getattr(module, name, nn.Identity()).train(mode)
        return self

    def activate(self) -> None:
        """Make this adapter the active one of the shared base model.

        Layers that only other adapters target compute without adapter.
        """
        for module in self.backbone.base_model.modules():
            if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
                module.enable_adapters(enabled=True)
                _select(module, self.adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Compute without adapter inside the block."""
        if self.is_prefix:
            before, self._prefix_disabled = self._prefix_disabled, True
            try:
                yield
            finally:
                self._prefix_disabled = before
        else:
            with self.peft_model.disable_adapter():
                yield

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the tensors of adapter and head on the CPU, by peft's names."""
        others = _adapter_names(self.backbone.base_model) - {self.adapter_name}
        own = {
            name: tensor
            for name, tensor in self.peft_model.state_dict().items()
            if others.isdisjoint(name.split("."))
        }
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self.peft_model,
            state_dict=own,
            adapter_name=self.adapter_name,
            save_embedding_layers=False,
        )
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor], place: str) -> None:
        """Load the tensors of an adapter, which must match one to one.

        Raises:
            StrictLoadError: If tensors are missing or unexpected; nothing is changed then.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        check_tensors_match(place, expected, tensors)
        set_peft_model_state_dict(self.peft_model, dict(tensors), adapter_name=self.adapter_name)

    def config_document(self) -> dict[str, Any]:
        """Return the contents of the adapter's ``adapter_config.json``."""
        config = copy.copy(self.peft_model.peft_config[self.adapter_name])
        # peft stores the folder that the model was loaded from
        config.base_model_name_or_path = self.backbone.hub_id or self.backbone.name
        config.revision = self.backbone.revision
        return config_document(config)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trainable parameters by name."""
        return ((n, p) for n, p in self.peft_model.named_parameters() if p.requires_grad)

    def remove(self) -> None:
        """Remove this adapter from the base model and leave others in place."""
        if not self.is_prefix:
            self.peft_model.base_model.delete_adapter(self.adapter_name)

    def close(self) -> None:
        """Remove all adapters from the base model, which is restored."""
        if not self.is_prefix:
            self.peft_model.unload()


def build_task_model(
    backbone: Backbone,
    *,
    head: HeadKind,
    task_type: str,
    labels: Sequence[str],
    adapter: AdapterSpec,
    parts: TrainableParts = "adapter",
    adapter_name: str = "default",
) -> TaskModel:
    """Put a new adapter and head on a backbone, ready to train.

    Args:
        backbone: Frozen backbone, whose base model is shared until ``close``.
    """
    model = build_head_model(backbone, head, labels)
    config = _peft_config(model, backbone, task_type, adapter, parts)
    task_model = _attach(model, backbone, config, adapter_name)
    if parts == "head":
        # the low-rank factors keep their initial product of zero
        for name, parameter in task_model.peft_model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(False)
    return task_model


def restore_task_model(
    backbone: Backbone,
    *,
    head: HeadKind,
    labels: Sequence[str],
    config: PeftConfig,
    tensors: Mapping[str, Tensor],
    adapter_name: str,
) -> TaskModel:
    """Put a stored adapter and its head on a backbone, which may have other adapters."""
    model = _attach(build_head_model(backbone, head, labels), backbone, config, adapter_name)
    model.peft_model.requires_grad_(False).eval()
    try:
        model.load_tensors(tensors, adapter_name)
    except StrictLoadError:
        model.remove()
        raise
    return model


def _attach(
    model: PreTrainedModel, backbone: Backbone, config: PeftConfig, adapter_name: str
) -> TaskModel:
    """Inject an adapter into a model on the shared base model."""
    import peft

    if backbone.kind != "vision":
        install_attention()
        backbone.base_model.config._attn_implementation = ATTENTION_NAME
    with warnings.catch_warnings():
        # peft warns of a second adapter on the same base model, which is intended here
        warnings.filterwarnings("ignore", message="You are trying to modify a model with PEFT")
        peft_model = peft.get_peft_model(model, config, adapter_name=adapter_name)
    fuse_lora_layers(peft_model)
    return TaskModel(peft_model, backbone, adapter_name)


def _adapter_names(base_model: nn.Module) -> set[str]:
    """Return the names of all adapters in a base model."""
    names: set[str] = set()
    for module in base_model.modules():
        if isinstance(module, BaseTunerLayer):
            names |= {name for each in module.adapter_layer_names for name in getattr(module, each)}
        elif isinstance(module, ModulesToSaveWrapper):
            names |= set(module.modules_to_save)
    return names


def _select(module: BaseTunerLayer | ModulesToSaveWrapper, name: str) -> None:
    if isinstance(module, BaseTunerLayer) or name in module.modules_to_save:
        module.set_adapter(name, inference_mode=True)
    else:
        module.enable_adapters(enabled=False)


def norm_names(base_model: nn.Module) -> list[str]:
    """Return the last components of the names of the norm layers, sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in base_model.named_modules()
            if "Norm" in type(module).__name__
        }
    )


def _peft_config(
    model: Any, backbone: Backbone, task_type: str, adapter: AdapterSpec, parts: TrainableParts
) -> PeftConfig:
    """Return peft's configuration of an adapter."""
    name = head_name(model)
    modules_to_save = [name] if name else []
    if parts == "head" and not name:
        raise RecipeError("this task has no head of its own to train", place="train.parts")
    if parts == "adapter_and_norms":
        modules_to_save += norm_names(backbone.base_model)
    targets: tuple[str, ...] = ()
    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(backbone.kind, backbone.name)
        if parts != "adapter":
            raise RecipeError(
                f"parts {parts!r} can't be combined with a prefix",
                place="train.parts",
                hint="Use parts: adapter, or adapter.method: lora",
            )
    elif isinstance(adapter, LoraSpec):
        output = model.get_output_embeddings()
        outputs = [path for path, module in model.named_modules() if module is output]
        targets = resolve_target_modules(
            model, adapter.target_modules, exclude=[name or "lm_head", *outputs]
        )
    return peft_config(
        adapter,
        task_type=task_type,
        base_model=backbone.hub_id or backbone.name,
        target_modules=targets,
        modules_to_save=modules_to_save or None,
        revision=backbone.revision,
    )
