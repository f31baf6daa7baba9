"""Parameters of the base model that an adapter replaces while its own sequences are computed.

Layers whose parameters are no linear product of a token, such as the experts of a mixture,
convolutions and fused attention, can't hold the tensors of several adapters at once. Such an
adapter is exclusive: its sequences are batched with no others, and its parameters take the place
of the base model's for that forward pass. Quantized weights are never merged: they are replaced
as a whole or keep their place beside a low-rank product.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

#: Held while the parameters of a base model are replaced, and while another thread reads them.
BASE_WEIGHTS = RLock()


@dataclass(frozen=True, slots=True, eq=False)
class LowRankDelta:
    """A low-rank product that is added to a parameter, one for each expert.

    Args:
        left: First factor, with the LoRA scale folded in.
        right: Second factor.
    """

    #: [num_experts, n, rank] or [n, rank] of a parameter [num_experts, n, m] or [n, m]
    left: Tensor
    #: [num_experts, rank, m] or [rank, m]
    right: Tensor

    def added_to(self, weight: Tensor) -> Tensor:
        """Return ``weight + left @ right``."""
        if weight.dim() == 2:
            return torch.addmm(weight, self.left, self.right)
        return torch.baddbmm(weight, self.left, self.right)

    def to(self, device: torch.device) -> LowRankDelta:
        """Return the factors on a device."""
        return LowRankDelta(self.left.to(device), self.right.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of both factors."""
        return self.left.nbytes + self.right.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class ParameterOverrides:
    """Parameters and buffers of a base model by their names below it.

    Args:
        replaced: Name to the whole tensor, in the compute type.
        deltas: Name to a low-rank product. The sum exists only while its module computes, so that
            there is never a second copy of all experts.
    """

    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    deltas: Mapping[str, LowRankDelta] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.replaced or self.deltas)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*self.replaced.values(), *self.deltas.values())
        return sum(each.nbytes for each in tensors)

    def to(self, device: torch.device) -> ParameterOverrides:
        """Return the tensors on a device."""
        return ParameterOverrides(
            {name: tensor.to(device) for name, tensor in self.replaced.items()},
            {name: delta.to(device) for name, delta in self.deltas.items()},
        )

    @contextmanager
    def apply(self, base_model: nn.Module) -> Iterator[None]:
        """Replace the parameters of a base model while the block runs."""
        with BASE_WEIGHTS, ExitStack() as stack:
            for name, tensor in self.replaced.items():
                stack.enter_context(_replaced(*owner_of(base_model, name), tensor))
            for name, delta in self.deltas.items():
                stack.enter_context(_changed(*owner_of(base_model, name), delta))
            yield


def owner_of(base_model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter or buffer, and its name there."""
    path, _, own = name.rpartition(".")
    return base_model.get_submodule(path), own


@contextmanager
def _replaced(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    before = _swap(module, name, tensor)
    try:
        yield
    finally:
        _swap(module, name, before)


@contextmanager
def _changed(module: nn.Module, name: str, delta: LowRankDelta) -> Iterator[None]:
    """Add a product to a parameter whenever its module computes."""
    before: list[Any] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        weight = getattr(module, name)
        before.append(_swap(module, name, delta.added_to(weight.detach())))

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        if before:
            _swap(module, name, before.pop())

    handles = [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _swap(module: nn.Module, name: str, tensor: Any) -> Any:
    """Set a parameter or buffer and return the one before, which is kept as the same object."""
    held: dict[str, Any] = module._buffers if name in module._buffers else module._parameters
    before = held[name]
    if held is module._parameters and not isinstance(tensor, nn.Parameter) and tensor is not None:
        tensor = nn.Parameter(tensor, requires_grad=False)
    held[name] = tensor
    return before
