"""Adapter tensors that replace or change parameters of modules without LoRA tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from adapterhub.adapters.peft_format import LINEAR_PARTS
from adapterhub.engine.module_overrides import (
    BASE_LAYER,
    attention_projections,
    convolution,
    low_rank_product,
    parameter_deltas,
)
from adapterhub.engine.parameter_overrides import ParameterOverrides

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from torch import Tensor

    from adapterhub.engine.parameter_overrides import LowRankDelta


class OverridesBuilder:
    """Collects the parameters that an adapter replaces or changes.

    Args:
        base_model: Base model of the backbone.
        scale: Returns the LoRA scale of the module or parameter of a path.
        is_target: Returns whether a parameter is one of ``target_parameters``.
    """

    def __init__(
        self,
        base_model: nn.Module,
        scale: Callable[[str], float],
        is_target: Callable[[str], bool],
    ) -> None:
        self._base_model = base_model
        self._scale = scale
        self._is_target_parameter = is_target
        self._deltas: dict[str, LowRankDelta] = {}
        #: new tensors by the path of their parameter or buffer
        self.replaced: dict[str, Tensor] = {}
        #: paths of all modules that the adapter has tensors of
        self.targets: Collection[str] = ()

    def overrides(self) -> ParameterOverrides:
        """Return what was collected."""
        return ParameterOverrides(self.replaced, self._deltas)

    def add(self, path: str, module: nn.Module, parts: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Add the tensors of a module; return those that do not belong to it."""
        scale = self._scale(path)
        found: dict[str, Tensor] | None = None
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found = convolution(module, parts, scale)
        elif isinstance(module, nn.MultiheadAttention):
            found = attention_projections(module, parts, scale)
        elif isinstance(module, nn.Linear) and self._is_fused_attention(path.rpartition(".")[0]):
            found = _attention_output(module, parts, scale * self._num_output_products(path))
        if found is None:
            return self._add_parameters(path, module, parts)
        self._replace(path, module, found)
        return {}

    def _is_fused_attention(self, path: str) -> bool:
        module = submodule(self._base_model, path)
        return isinstance(module, nn.MultiheadAttention)

    def _num_output_products(self, path: str) -> int:
        """Return how often peft adds the product of the output layer of fused attention.

        With LoRA on the attention, both its ``merge`` and that of the output layer add it. Without,
        the attention reads the weight of the backbone. Source: ``MultiheadAttention`` in
        ``peft/tuners/lora/layer.py`` of peft 0.21.
        """
        return 2 if path.rpartition(".")[0] in self.targets else 0

    def _add_parameters(
        self, path: str, module: nn.Module, parts: dict[str, Tensor]
    ) -> Mapping[str, Tensor]:
        deltas = parameter_deltas(
            module,
            parts,
            lambda name: self._is_target_parameter(f"{path}.{name}"),
            lambda name: self._scale(f"{path}.{name}"),
        )
        if deltas is not None:
            self._deltas |= {f"{path}.{name}": delta for name, delta in deltas.items()}
            return {}
        held = dict(_tensors_of(module))
        whole = {part.removeprefix(BASE_LAYER): tensor for part, tensor in parts.items()}
        fitting = {n: t for n, t in whole.items() if n in held and t.shape == held[n].shape}
        self._replace(path, module, fitting)
        return {name: tensor for name, tensor in whole.items() if name not in fitting}

    def _replace(self, path: str, module: nn.Module, found: Mapping[str, Tensor]) -> None:
        held = dict(_tensors_of(module))
        for name, tensor in found.items():
            if not equal(tensor, held[name]):
                self.replaced[f"{path}.{name}".lstrip(".")] = tensor.to(held[name].dtype, copy=True)


def _attention_output(
    module: nn.Module, parts: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor] | None:
    if parts.keys() != set(LINEAR_PARTS):
        return None
    weight = module.get_parameter("weight").detach().float()
    product = low_rank_product(parts[LINEAR_PARTS[0]], parts[LINEAR_PARTS[1]], scale)
    return {"weight": weight + product} if product.shape == weight.shape else None


def submodule(base_model: nn.Module, path: str) -> nn.Module | None:
    """Return a module of the base model, or ``None``."""
    try:
        return base_model.get_submodule(path)
    except AttributeError:
        return None


def _tensors_of(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def equal(tensor: Tensor, own: Tensor) -> bool:
    """Return whether a tensor repeats the backbone's own."""
    return tensor.shape == own.shape and torch.equal(tensor.to(own.device, own.dtype), own)
