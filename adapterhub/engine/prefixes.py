"""Trained prefixes: keys and values that stand before a row's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.errors import StrictLoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.engine.heads import TaskHead


@dataclass(frozen=True, slots=True, eq=False)
class PrefixStates:
    """A prefix as the key-value cache holds it.

    Args:
        keys: of each layer ``[virtual tokens, heads, width]``.
        values: shaped as ``keys``.
        reader: how the adapter labels texts, where it does.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    reader: TaskHead | None = None

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.keys[0])


def prefix_states(
    weights: AdapterWeights,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    name: str,
    reader: TaskHead | None = None,
) -> PrefixStates:
    """Return the keys and values of a prefix adapter.

    Args:
        weights: whose one tensor is ``[virtual tokens, layers * 2 * heads * width]``, of each
            layer the keys and then the values. Source: ``get_prompt`` in peft's
            ``peft_model.py``.
        shape: layers, key-value heads and width of a head.
        dtype: of the cache.
        name: of the adapter, for messages.
        reader: how it labels texts, where it does.

    Raises:
        StrictLoadError: when it is of another shape.
    """
    layers, heads, width = shape
    prompt = weights.tensors.get(PROMPT_KEY)
    others = [key for key in weights.tensors if key != PROMPT_KEY]
    if (
        prompt is None
        or others
        or prompt.dim() != 2
        or prompt.shape[1] != 2 * layers * heads * width
    ):
        wanted = f"{PROMPT_KEY} of shape [tokens, {2 * layers * heads * width}]"
        found = f"{PROMPT_KEY} of shape {list(prompt.shape)}" if prompt is not None else ""
        raise StrictLoadError(name, [wanted], [*others, *([found] if found else [])])
    states = prompt.to(dtype).view(len(prompt), layers, 2, heads, width)
    return PrefixStates(
        tuple(states[:, layer, 0].contiguous() for layer in range(layers)),
        tuple(states[:, layer, 1].contiguous() for layer in range(layers)),
        reader,
    )
