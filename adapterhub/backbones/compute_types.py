"""Types of unquantized weights and buffers, as transformers chooses them for a compute type."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adapterhub.backbones.loading import probe_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


def template_of(model: PreTrainedModel, compute: torch.dtype) -> Any:
    """Return a model as transformers builds it in a compute type, on the meta device."""
    with torch.device("meta"):
        return type(model)._from_config(copy.deepcopy(model.config), dtype=compute)


def failure_of(base_model: Any) -> Exception | None:
    """Return what a base model raises on a small input, on its own device.

    On the meta device some architectures raise whose ``forward`` depends on values.
    """
    device = next(base_model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in probe_inputs(base_model).items()}
    try:
        with torch.no_grad():
            base_model(**inputs)
    except Exception as error:  # noqa: BLE001 - an architecture may raise anything
        return error
    return None


class ComputeTypes:
    """Types that a model has when transformers loads it in a compute type.

    Most tensors have the compute type. Some architectures keep others in float32: decays of
    recurrent layers, biases of routers, rotary frequencies.

    Args:
        template: The model of ``template_of``.
    """

    def __init__(self, template: Any, compute: torch.dtype) -> None:
        from transformers.core_model_loading import build_glob_alternation

        self._compute = compute
        self._own = {name: tensor.dtype for name, tensor in _tensors(template)}
        plan = template._get_dtype_plan(compute)
        self._plan = build_glob_alternation(list(plan))[0] if plan else None

    def of(self, name: str) -> torch.dtype:
        """Return the type of a parameter or buffer."""
        if self._plan is not None and self._plan.search(name):
            return torch.float32
        return self._own.get(name, self._compute)

    def kept_modules(self, model: nn.Module) -> set[int]:
        """Return the ids of modules with a weight in another type than the compute type."""
        return {
            id(module)
            for path, module in model.named_modules()
            for name, tensor in module.named_parameters(path, recurse=False)
            if tensor.is_floating_point() and self.of(name) != self._compute
        }


def convert_tensors(model: nn.Module, types: ComputeTypes) -> None:
    """Convert the unquantized weights and the buffers of a model on the CPU in place.

    Buffers that no file stores are computed anew where their type changes, because they would keep
    the rounding of the file's type.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            # a copy even if nothing changes, to release the mapped file
            parameter.data = parameter.data.to(types.of(name), copy=True)
    stale: list[nn.Module] = []
    for path, module in model.named_modules():
        for name, buffer in list(module._buffers.items()):
            dtype = types.of(f"{path}.{name}" if path else name)
            if buffer is None or not buffer.is_floating_point() or buffer.dtype == dtype:
                continue
            module._buffers[name] = buffer.to(dtype)
            if name in module._non_persistent_buffers_set:
                stale.append(module)
    _compute_buffers(model, stale)


def _compute_buffers(model: Any, modules: list[nn.Module]) -> None:
    """Compute the unstored buffers of some modules as transformers does after loading."""
    if not modules:
        return
    # transformers' initialisation leaves marked tensors and modules as they are
    for marked in (*model.parameters(), *model.buffers(), *model.modules()):
        marked._is_hf_initialized = True
    for module in modules:
        module._is_hf_initialized = False
        for name in module._non_persistent_buffers_set:
            if module._buffers.get(name) is not None:
                module._buffers[name]._is_hf_initialized = False
    model.initialize_weights()


def set_config_type(config: Any, compute: torch.dtype) -> None:
    """Note a compute type in a configuration and those inside it, as transformers does."""
    inner = [each for name in config.sub_configs if (each := getattr(config, name, None))]
    for each in (config, *inner):
        each.dtype = compute


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
