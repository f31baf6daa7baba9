"""Compute budget of explained answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttributionBudget:
    """Limits of explaining a few answers.

    Args:
        steps: Maximum number of integration steps per answer.
        tokens: Maximum number of tokens of an example.
        seconds: Time for all answers; a slow backbone gets shorter examples, or none.
    """

    steps: int = 20
    tokens: int = 128
    seconds: float = 10.0


DEFAULT_BUDGET = AttributionBudget()
