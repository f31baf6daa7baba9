"""Duration of a run's training steps, without the time in which its process was stopped.

On a shared machine a long run is stopped while others measure, and continued later; its wall-clock
time includes the pause.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from adapterhub.training.progress import EvaluationEvent, StepEvent

#: Multiple of the median duration above which a step counts as interrupted.
MAX_RATIO = 10.0


class StepClock:
    """Reporter that measures the durations of steps."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._durations: list[float] = []

    def on_step(self, event: StepEvent) -> None:
        """Record the end of a step."""
        now = time.monotonic()
        if self._last is not None:
            self._durations.append(now - self._last)
        self._last = now

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Do not count the time of an evaluation as a step."""
        self._last = None

    def on_message(self, text: str) -> None:
        """Ignore messages."""

    def seconds(self, steps: int) -> float:
        """Return the time of so many steps."""
        return uninterrupted_seconds(self._durations, steps)


def uninterrupted_seconds(durations: Sequence[float], steps: int) -> float:
    """Return the time of ``steps`` steps, by the mean duration of those not interrupted.

    Args:
        durations: Durations of steps, in seconds.
        steps: Number of all steps, with those of unknown duration.

    Raises:
        ValueError: If there are no durations.
    """
    if not durations:
        raise ValueError("no two steps follow each other: train more steps to measure their time")
    median = statistics.median(durations)
    return statistics.mean(each for each in durations if each <= MAX_RATIO * median) * steps


def logged_seconds(log: Path) -> float:
    """Return the time of all steps in the log of a run."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    pairs = pairwise(records)
    durations = [b["time"] - a["time"] for a, b in pairs if a["event"] == b["event"] == "step"]
    return uninterrupted_seconds(
        durations, steps=sum(record["event"] == "step" for record in records)
    )
