"""Next-token loss in chunks, so that the logits of a whole batch never exist at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from adapterhub.kernels.linear_cross_entropy import linear_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from adapterhub.tasks.base import Head

#: Positions per chunk: 256 vectors of 49,152 float32 logits are 48 MiB.
CHUNK_POSITIONS = 256


def summed_cross_entropy(
    head: Head, hidden: Tensor, targets: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the cross entropy summed over positions, a float32 scalar.

    A head with a ``frozen_weight`` is a single matrix and is computed by the fused kernel. For
    any other head logits are computed chunk by chunk and recomputed for the gradient.

    Args:
        head: Maps ``[n, hidden]`` to ``[n, vocabulary]``.
        hidden: Hidden states ``[n, hidden]``.
        targets: Target tokens ``[n]`` int64.
        smoothing: Label smoothing as in ``torch.nn.functional.cross_entropy``.
    """

    weight = getattr(head, "frozen_weight", None)
    if weight is not None:
        return linear_cross_entropy(hidden, weight, targets, smoothing)

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(
            head(states).float(), wanted, reduction="sum", label_smoothing=smoothing
        )

    total = hidden.new_zeros((), dtype=torch.float32)
    for states, wanted in _chunks(hidden, targets):
        total = total + checkpoint(part, states, wanted, use_reentrant=False)
    return total


def token_scores(head: Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each position's loss, float32, and whether its target is the likeliest token.

    Arguments have the shapes of ``summed_cross_entropy``.

    Returns:
        Two tensors ``[n]`` on the CPU.
    """
    losses, hits = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    with torch.no_grad():
        for states, wanted in _chunks(hidden, targets):
            logits = head(states).float()
            losses.append(F.cross_entropy(logits, wanted, reduction="none").cpu())
            hits.append((logits.argmax(dim=-1) == wanted).cpu())
    return torch.cat(losses), torch.cat(hits)


def _chunks(hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, hidden.shape[0], CHUNK_POSITIONS):
        part = slice(start, start + CHUNK_POSITIONS)
        yield hidden[part], targets[part]
