"""What modules hold: every tensor once, quantization scales included."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from bitsandbytes.nn import Linear8bitLt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn


def state_digest(module: nn.Module) -> str:
    """Return one sha256 over every byte that a module holds, quantization scales included."""
    digest = sha256()
    for tensor in held_tensors([module]):
        digest.update(f"\n{tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def held_bytes(modules: Iterable[nn.Module]) -> int:
    """Return the bytes of weights, scales and buffers, shared ones counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in held_tensors(modules))


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Return the number of weights before quantization, shared ones counted once."""
    unique = {id(p): p for module in modules for p in module.parameters()}
    return sum(_weights(parameter) for parameter in unique.values())


def held_tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Yield each tensor held, once: parameters, what undoes their quantization, buffers."""
    seen: set[int] = set()
    for module in modules:
        for layer in module.modules():
            for tensor in _own_tensors(layer):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _own_tensors(layer: nn.Module) -> Iterator[Tensor]:
    for parameter in layer.parameters(recurse=False):
        yield parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield state.absmax
            yield state.code
    yield from layer.buffers(recurse=False)
    if isinstance(layer, Linear8bitLt):
        # the row scales move from the weight to the layer at the first forward pass
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        if scales is not None:
            yield scales


def _weights(parameter: nn.Parameter) -> int:
    """Return the number of weights that a parameter stands for."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())
