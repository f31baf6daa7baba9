"""Memory of greedy generation for several prompts."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adapterhub.backbones.generation import _contiguous_input


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_output_embeddings_are_not_copied_per_sequence():
    layer = nn.Linear(8, 100, bias=False).requires_grad_(False)
    states = torch.randn(6, 5, 8)
    expected = layer(states[:, -1])
    with Largest() as plain:
        layer(states[:, -1:])
    with _contiguous_input(layer), Largest() as contiguous:
        found = layer(states[:, -1:])
    assert torch.allclose(found[:, 0], expected)
    assert contiguous.elements <= layer.weight.numel()
    # if this fails, torch needs the hook no longer
    assert plain.elements == 6 * layer.weight.numel()
    assert not layer._forward_pre_hooks
