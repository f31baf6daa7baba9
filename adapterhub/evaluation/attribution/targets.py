"""The number that is explained: a function of the head's outputs that says how strong an answer is.

Where an answer is a choice, the number is its log-odds, ``log(p / (1 - p))``. The softmax of a
choice does not change when all logits grow alike, and nor do log-odds; and unlike ``p`` they do
not stand still where an answer is nearly certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is explained.

    Args:
        answer: in words.
        quantity: what the number is.
        probability: of the answer, where it has one.
        measure: maps logits ``[rows, selected, classes]`` in float32 to ``[rows]``.
        start: first character of an answer that is part of the text.
        end: one past its last.
    """

    answer: str
    quantity: str
    probability: float | None
    measure: Callable[[Tensor], Tensor]
    start: int | None = None
    end: int | None = None


def log_odds(logits: Tensor, index: int) -> Tensor:
    """Return ``log(p / (1 - p))`` of one of the choices along the last dimension."""
    others = torch.cat((logits[..., :index], logits[..., index + 1 :]), dim=-1)
    return logits[..., index] - others.logsumexp(dim=-1)


def of_label(logits: Tensor, index: int) -> Tensor:
    """Return the log-odds of a label that excludes the others."""
    return log_odds(logits[:, 0], index)


def of_own_label(logits: Tensor, index: int) -> Tensor:
    """Return the log-odds of a label that is a question of its own."""
    return logits[:, 0, index]


def of_tags(logits: Tensor, words: Sequence[int], tags: Sequence[int]) -> Tensor:
    """Return the mean log-odds of the tags of some words."""
    found = [log_odds(logits[:, word], tag) for word, tag in zip(words, tags, strict=True)]
    return torch.stack(found).mean(dim=0)


def of_ends(logits: Tensor, first: int, last: int) -> Tensor:
    """Return the log-odds to start at one position and to end at another, added."""
    return log_odds(logits[..., 0], first) + log_odds(logits[..., 1], last)


def of_tokens(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return the summed log-probability of tokens, each after those before."""
    wanted = torch.tensor(tokens, device=logits.device).expand(len(logits), -1)
    return -F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(dim=-1)
