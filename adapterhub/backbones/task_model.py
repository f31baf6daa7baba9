"""One task's head and adapter on a shared, frozen backbone, run over packed rows."""

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
from adapterhub.backbones.fused_lora import fuse_lora_layers
from adapterhub.backbones.heads import StockHead, head_name, stock_model
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.skeleton import check_prefix_fits
from adapterhub.backbones.vision import VisionHead, head_inputs
from adapterhub.errors import RecipeError, StrictLoadError
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import ATTENTION_NAME, install_attention
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from peft import PeftConfig, PeftModel

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import PackedBatch
    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind

#: What learns: adapter and head; the head alone; adapter, head and the norm layers.
TrainableParts = Literal["adapter", "head", "adapter_and_norms"]


class TaskModel(nn.Module):
    """A peft model over the shared body, with the head applied where the task reads it.

    ``close`` gives the body back as it was.
    """

    def __init__(self, peft_model: PeftModel, backbone: Backbone, adapter_name: str) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.backbone = backbone
        self.adapter_name = adapter_name
        self._without_prefix = False

    @property
    def stock(self) -> Any:
        """transformers' class for the task, with the adapter's layers in place."""
        return self.peft_model.get_base_model()

    @property
    def head(self) -> StockHead | VisionHead:
        """The head, with the adapter's own weights where it has any."""
        return VisionHead(self.stock) if self.backbone.kind == "vision" else StockHead(self.stock)

    def set_head_bias(self, values: Sequence[float]) -> None:
        """Put values into the bias of a new head, one an output; a head without one stays."""
        name = head_name(self.stock)
        if name is None:
            return
        layer = getattr(self.stock, name)
        wrapped = isinstance(layer, ModulesToSaveWrapper)
        own = layer.modules_to_save[self.adapter_name] if wrapped else layer
        if own.bias is not None:
            with torch.no_grad():
                own.bias.copy_(torch.tensor(values))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return what the body's first layer makes of tokens, ``[tokens, width]``."""
        embedded: Tensor = self.stock.get_input_embeddings()(input_ids)
        return embedded

    def hidden(self, batch: PackedBatch, embedded: Tensor | None = None) -> Tensor:
        """Return the body's last hidden states at ``batch.select``, ``[selected, hidden]``.

        Of pictures, what the architecture gives its own head, ``[rows, features]``.

        Args:
            batch: packed rows.
            embedded: read in place of what ``embed`` makes of the batch's tokens, fill
                included, ``[tokens + fill, width]``.
        """
        stock = self.stock
        if batch.pixels is not None:
            dtype = torch_dtype(self.backbone.quantization.compute_dtype)
            return head_inputs(stock, batch.pixels.to(dtype))
        body = getattr(stock, stock.base_model_prefix)
        inputs: dict[str, Any] = {}
        if embedded is None:
            inputs["input_ids"] = batch.input_ids.unsqueeze(0)
        else:
            inputs["inputs_embeds"] = embedded.unsqueeze(0)
        positions = batch.position_ids
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        if self.is_prefix and not self._without_prefix:
            inputs["past_key_values"] = self.peft_model.get_prompt(batch_size=1)
            positions = positions + self.peft_model.active_peft_config.num_virtual_tokens
        if self.backbone.kind == "decoder":
            inputs["use_cache"] = False
        output = body(
            position_ids=positions.unsqueeze(0),
            # a ready four-dimensional mask is passed on as it is; packed attention reads
            # the lengths of the sequences instead
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device),
            packed=PackedSequences(batch.lengths),
            **inputs,
        )
        return output.last_hidden_state[0, batch.select]

    def forward(
        self,
        batch: PackedBatch,
        loss: Callable[[StockHead | VisionHead, Tensor, PackedBatch], Tensor],
    ) -> Tensor:
        """Return the summed loss of a batch as a scalar."""
        return loss(self.head, self.hidden(batch), batch)

    def train(self, mode: bool = True) -> TaskModel:
        """Set the mode of adapter and head; the frozen body always computes as in evaluation.

        Its own dropout layers were made for training it whole. What regularises an adapter
        is the adapter's dropout.
        """
        super().train(mode)
        self.backbone.body.eval()
        for module in self.backbone.body.modules():
            if isinstance(module, BaseTunerLayer):
                for name in (*module.adapter_layer_names, "lora_dropout"):
                    getattr(module, name, nn.Identity()).train(mode)
        return self

    def activate(self) -> None:
        """Make this adapter the one that the shared body computes with.

        Layers of the body that only other adapters have then compute as the bare backbone.
        """
        for module in self.backbone.body.modules():
            if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
                module.enable_adapters(enabled=True)
                _select(module, self.adapter_name)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Compute as the backbone alone, without adapter, while entered."""
        if self.is_prefix:
            hidden, self._without_prefix = self._without_prefix, True
            try:
                yield
            finally:
                self._without_prefix = hidden
        else:
            with self.peft_model.disable_adapter():
                yield

    @property
    def is_prefix(self) -> bool:
        """Whether the adapter is a prefix and leaves the body's layers alone."""
        return bool(self.peft_model.active_peft_config.is_prompt_learning)

    def tensors(self) -> dict[str, Tensor]:
        """Return the adapter with its head, under peft's names, as stored in an artifact."""
        others = _adapter_names(self.backbone.body) - {self.adapter_name}
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
        """Fill in an adapter's tensors; all of them, and no other.

        Args:
            tensors: under peft's names.
            place: name of the adapter, for messages.

        Raises:
            StrictLoadError: naming what is missing or unexpected; nothing is changed then.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        check_tensors_match(place, expected, tensors)
        set_peft_model_state_dict(self.peft_model, dict(tensors), adapter_name=self.adapter_name)

    def config_document(self) -> dict[str, Any]:
        """Return what ``adapter_config.json`` holds for this adapter."""
        config = copy.copy(self.peft_model.peft_config[self.adapter_name])
        # peft puts the folder that the model was loaded from here
        config.base_model_name_or_path = self.backbone.hub_id or self.backbone.name
        config.revision = self.backbone.revision
        return config_document(config)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that learn, by name."""
        return ((n, p) for n, p in self.peft_model.named_parameters() if p.requires_grad)

    def remove(self) -> None:
        """Take this adapter off the body and leave others where they are."""
        if not self.is_prefix:
            self.peft_model.base_model.delete_adapter(self.adapter_name)

    def close(self) -> None:
        """Take all adapters off the body, which is then as it was before."""
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
    """Put a fresh adapter and head on a backbone, ready to train.

    Args:
        backbone: stays frozen; its body is shared with the model until ``close``.
        head: which head the task reads.
        task_type: peft's name of the task, e.g. ``SEQ_CLS``.
        labels: of a new head, in the order of its outputs.
        adapter: method and hyper-parameters.
        parts: what learns.
        adapter_name: tells the adapter from others on the same body.

    Raises:
        RecipeError: when the adapter does not fit the backbone.
        BackboneError: when the backbone can't carry the head.
    """
    import peft

    _choose_attention(backbone)
    stock = stock_model(backbone, head, labels)
    config = _config(stock, backbone, task_type, adapter, parts)
    peft_model = peft.get_peft_model(stock, config, adapter_name=adapter_name)
    _choose_trainable(peft_model, parts)
    fuse_lora_layers(peft_model)
    return TaskModel(peft_model, backbone, adapter_name)


def restore_task_model(
    backbone: Backbone,
    *,
    head: HeadKind,
    labels: Sequence[str],
    config: PeftConfig,
    tensors: Mapping[str, Tensor],
    adapter_name: str,
) -> TaskModel:
    """Put a stored adapter and its head on a backbone, beside others if there are any.

    Args:
        backbone: shared.
        head: which head the task reads.
        labels: in the order of the head's outputs.
        config: peft's configuration, as stored.
        tensors: under peft's names.
        adapter_name: tells the adapter from others on the same body.

    Raises:
        StrictLoadError: when tensors and model do not match one to one.
    """
    import peft

    _choose_attention(backbone)
    stock = stock_model(backbone, head, labels)
    with warnings.catch_warnings():
        # peft warns of a second adapter on the same body, which is what is wanted here
        warnings.filterwarnings("ignore", message="You are trying to modify a model with PEFT")
        peft_model = peft.get_peft_model(stock, config, adapter_name=adapter_name)
    peft_model.requires_grad_(False).eval()
    fuse_lora_layers(peft_model)
    model = TaskModel(peft_model, backbone, adapter_name)
    try:
        model.load_tensors(tensors, adapter_name)
    except StrictLoadError:
        model.remove()
        raise
    return model


def _choose_attention(backbone: Backbone) -> None:
    """Let texts attend within their rows; pictures are stacked and need nothing of the kind."""
    if backbone.kind == "vision":
        return
    install_attention()
    backbone.body.config._attn_implementation = ATTENTION_NAME


def _adapter_names(body: nn.Module) -> set[str]:
    """Return the names of all adapters that have layers in the body."""
    names: set[str] = set()
    for module in body.modules():
        if isinstance(module, BaseTunerLayer):
            names |= {name for part in module.adapter_layer_names for name in getattr(module, part)}
        elif isinstance(module, ModulesToSaveWrapper):
            names |= set(module.modules_to_save)
    return names


def _select(module: BaseTunerLayer | ModulesToSaveWrapper, name: str) -> None:
    if isinstance(module, BaseTunerLayer) or name in module.modules_to_save:
        module.set_adapter(name, inference_mode=True)
    else:
        module.enable_adapters(enabled=False)


def norm_names(body: nn.Module) -> list[str]:
    """Return the last parts of the names of the body's norm layers, sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in body.named_modules()
            if "Norm" in type(module).__name__
        }
    )


def _config(
    stock: nn.Module,
    backbone: Backbone,
    task_type: str,
    adapter: AdapterSpec,
    parts: TrainableParts,
) -> PeftConfig:
    name = head_name(stock)
    saved = [name] if name else []
    if parts == "head" and not name:
        raise RecipeError("this task has no head of its own to train", place="train.parts")
    if parts == "adapter_and_norms":
        saved += norm_names(backbone.body)
    if isinstance(adapter, PrefixSpec):
        _check_prefix(backbone, parts)
        targets: tuple[str, ...] = ()
    else:
        targets = resolve_target_modules(
            stock, adapter.target_modules, exclude=[name or "lm_head", *_output_names(stock)]
        )
    return peft_config(
        adapter,
        task_type=task_type,
        base_model=backbone.hub_id or backbone.name,
        target_modules=targets,
        modules_to_save=saved or None,
        revision=backbone.revision,
    )


def _check_prefix(backbone: Backbone, parts: TrainableParts) -> None:
    check_prefix_fits(backbone.kind, backbone.name)
    if parts != "adapter":
        raise RecipeError(
            f"parts {parts!r} can't be combined with a prefix",
            place="train.parts",
            hint="Use parts: adapter, or adapter.method: lora",
        )


def _output_names(stock: Any) -> list[str]:
    output = stock.get_output_embeddings()
    return [name for name, module in stock.named_modules() if module is output]


def _choose_trainable(peft_model: PeftModel, parts: TrainableParts) -> None:
    """Let the head alone learn if asked; the low-rank factors then stay at no effect."""
    if parts != "head":
        return
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
