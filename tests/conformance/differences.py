"""Differences between what the engine and peft compute, and their bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Largest difference of a probability, or of the log-probability of a token.
BOUND = 1e-4
#: Tokens that are generated.
NUM_TOKENS = 6


@dataclass(slots=True)
class Differences:
    """The largest difference, and what differs by more than the bound.

    Args:
        contradicted: Whether transformers' generation with its cache differs from its own forward.
    """

    largest: float = 0.0
    notes: list[str] = field(default_factory=list)
    contradicted: bool = False

    def add(self, what: str, difference: float) -> None:
        """Add a difference."""
        self.largest = max(self.largest, difference)
        if not difference <= BOUND:
            self.notes.append(f"{what} differs by {difference:.2g}")


def token_difference(
    found: list[int], found_scores: torch.Tensor, tokens: list[int], scores: torch.Tensor
) -> float:
    """Return the largest difference of log-probabilities, up to the first near tie."""
    best = scores.topk(2).values
    for at, (one, other) in enumerate(zip(found, tokens, strict=True)):
        if one != other:
            tie = float(best[at, 0] - best[at, 1])
            if tie > BOUND:
                return float("inf")
            return float((found_scores[:at] - best[:at, 0]).abs().max()) if at else 0.0
    return float((found_scores - best[:, 0]).abs().max())
