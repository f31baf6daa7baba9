"""Log-probabilities of the chosen token and of the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities at one step.

    Args:
        chosen: of the token that was taken.
        best: token ids and their values, the most likely first.
    """

    chosen: float
    best: tuple[tuple[int, float], ...]


def token_logprobs(
    logits: Tensor, chosen: Sequence[int], counts: Sequence[int]
) -> list[TokenLogprobs]:
    """Report rows of the distribution that the model gave, before any setting changes it.

    Args:
        logits: float32 ``[rows, vocabulary]``, before penalties and temperature.
        chosen: token of each row.
        counts: of best tokens that each row asks for.

    Returns:
        One report a row.
    """
    values = torch.log_softmax(logits, dim=-1)
    index = torch.tensor(chosen, device=logits.device)[:, None]
    taken = values.gather(1, index)[:, 0].tolist()
    best = values.topk(min(max(counts), logits.shape[1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprobs(own, tuple(zip(ids[:count], found[:count], strict=True)))
        for own, count, (ids, found) in zip(taken, counts, pairs, strict=True)
    ]
