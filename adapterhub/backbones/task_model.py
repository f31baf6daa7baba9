"""Training model: a task's head and a peft adapter on the shared, frozen backbone."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from adapterhub.adapters.peft_format import config_document
from adapterhub.adapters.tensor_checks import check_tensors_match
from adapterhub.backbones.adapter_config import adapter_peft_config
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.fused_lora import fuse_lora_layers
from adapterhub.backbones.head_construction import build_head
from adapterhub.backbones.task_forward import TaskForward
from adapterhub.backbones.trained_layers import fuse_decoder_layers, restore_decoder_layers
from adapterhub.errors import StrictLoadError
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from peft import PeftConfig, PeftModel

    from adapterhub.backbones.adapter_config import TrainableParts
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.backbones.task_forward import LogitsHead, TaskHead
    from adapterhub.data.packing import PackedBatch
    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind


class TaskModel(nn.Module):
    """A peft model on the shared base model that applies the head where the task reads it.

    ``close`` restores the base model.

    Args:
        peft_model: peft's model around the class for a task.
        forward: Forward passes of that class.
    """

    def __init__(
        self, peft_model: PeftModel, backbone: Backbone, adapter_name: str, forward: TaskForward
    ) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.backbone = backbone
        self.adapter_name = adapter_name
        self._forward = forward
        self._prefix_disabled = False

    @property
    def head_model(self) -> Any:
        """transformers' model for the task, with the adapter's layers injected."""
        return self.peft_model.get_base_model()

    @property
    def head(self) -> TaskHead | LogitsHead:
        """Function from what ``hidden`` returns to logits."""
        return self._forward.head

    @property
    def is_packed(self) -> bool:
        """Whether batches of texts run packed, else padded."""
        return self._forward.packed

    @property
    def takes_embeddings(self) -> bool:
        """Whether ``hidden`` can use input embeddings in place of tokens."""
        return self._forward.heads.takes("inputs_embeds")

    @property
    def is_prefix(self) -> bool:
        """Whether the adapter is a prefix, which changes no layer of the base model."""
        return bool(self.peft_model.active_peft_config.is_prompt_learning)

    def set_head_bias(self, values: Sequence[float]) -> None:
        """Set the bias of a new head, one value per output; a head without a bias is unchanged."""
        bias = self._forward.heads.output_layer.bias
        if isinstance(bias, nn.Parameter) and len(bias) == len(values):
            with torch.no_grad():
                bias.copy_(torch.tensor(values))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the input embeddings of tokens, ``[num_tokens, hidden]``."""
        embedded: Tensor = self.head_model.get_input_embeddings()(input_ids)
        return embedded

    def hidden(self, batch: PackedBatch, embedded: Tensor | None = None) -> Tensor:
        """Return what ``head`` reads at ``batch.select``, ``[num_selected, width]``.

        These are the last hidden states, or the logits where the task's class computes them from
        more than the states at these positions.

        Args:
            embedded: Input embeddings to use instead of those of the batch's tokens, including
                padding, ``[num_tokens, hidden]``.
        """
        return self._forward.outputs(batch, embedded, self._prompt)

    def states(self, batch: PackedBatch) -> Tensor:
        """Return the last hidden states at ``batch.select``, ``[num_selected, hidden]``."""
        return self._forward.states(batch, prompt=self._prompt)

    def features(self, batch: PackedBatch) -> Tensor:
        """Return the input of the head's last layer at ``batch.select``."""
        return self._forward.features(batch)

    @property
    def _prompt(self) -> Callable[[int], Any] | None:
        return self.peft_model.get_prompt if self.is_prefix and not self._prefix_disabled else None

    def forward(
        self,
        batch: PackedBatch,
        loss: Callable[[TaskHead | LogitsHead, Tensor, PackedBatch], Tensor],
    ) -> Tensor:
        """Return the summed loss of a batch as a scalar."""
        return loss(self.head, self.hidden(batch), batch)

    def train(self, mode: bool = True) -> TaskModel:
        """Set the mode of adapter and head; the base model stays in evaluation mode.

        Its dropout layers are meant for training all of its weights. An adapter is regularised by
        its own dropout.
        """
        super().train(mode)
        base_model = self._forward.heads.frozen_model
        base_model.eval()
        for module in base_model.modules():
            if isinstance(module, BaseTunerLayer):
                for name in (*module.adapter_layer_names, "lora_dropout"):
                    getattr(module, name, nn.Identity()).train(mode)
        for path in self._forward.heads.head_modules:
            self.head_model.get_submodule(path).train(mode)
        return self

    def activate(self) -> None:
        """Make this adapter the active one of the shared base model.

        Layers that only other adapters target compute without adapter.
        """
        for module in self.head_model.modules():
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
        others = _adapter_names(self.head_model) - {self.adapter_name}
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
        config.base_model_name_or_path = self.backbone.hub_id or self.backbone.public_name
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
        restore_decoder_layers(self.backbone.base_model)
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
    paths = forward_paths(backbone)
    heads = build_head(backbone, head, labels)
    config = adapter_peft_config(heads, backbone.kind, backbone.name, task_type, adapter, parts)
    config.base_model_name_or_path = backbone.hub_id or backbone.public_name
    config.revision = backbone.revision
    task_model = _attach(heads, backbone, config, adapter_name, paths)
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
    paths = forward_paths(backbone)
    model = _attach(build_head(backbone, head, labels), backbone, config, adapter_name, paths)
    model.peft_model.requires_grad_(False).eval()
    try:
        model.load_tensors(tensors, adapter_name)
    except StrictLoadError:
        model.remove()
        raise
    return model


def _attach(
    heads: HeadModel,
    backbone: Backbone,
    config: PeftConfig,
    adapter_name: str,
    paths: ForwardPaths,
) -> TaskModel:
    """Inject an adapter into a model on the shared base model."""
    import peft

    # before the adapter is there: the checks need the model as it was loaded
    forward = TaskForward(heads, backbone, paths, has_prefix=config.is_prompt_learning)
    if forward.packed:
        fuse_decoder_layers(backbone.base_model)
    # peft warns of a second adapter on the same base model, which is intended here, of layers
    # with transposed weights, whose setting it corrects itself, and of the base model's name
    with without_warnings():
        peft_model = peft.get_peft_model(heads.model, config, adapter_name=adapter_name)
    fuse_lora_layers(peft_model)
    return TaskModel(peft_model, backbone, adapter_name, forward)


def _adapter_names(model: nn.Module) -> set[str]:
    """Return the names of all adapters in a model."""
    names: set[str] = set()
    for module in model.modules():
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
