"""How long a run's steps take, without the time in which its process was stopped.

On a machine that is shared, a long run gives way while somebody measures: it is stopped and
goes on later. Its own clock counts that time too.
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

#: A step that takes so many times the median was stopped.
STOPPED = 10.0


class StepClock:
    """Notes when steps end; hears a run's events as any reporter does."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._steps: list[float] = []

    def on_step(self, event: StepEvent) -> None:
        self._times.append(time.monotonic())
        if len(self._times) > 1:
            self._steps.append(self._times[-1] - self._times[-2])

    def on_evaluation(self, event: EvaluationEvent) -> None:
        # the next step does not begin where the last one ended
        self._times.clear()

    def on_message(self, text: str) -> None:
        pass

    def seconds(self, steps: int) -> float:
        """Return the time of so many steps."""
        return steady(self._steps, steps)


def steady(durations: Sequence[float], steps: int) -> float:
    """Return the time of ``steps`` steps that take as long as those that were not stopped.

    Args:
        durations: of steps, in seconds.
        steps: how many there were in all, with those whose duration is not known.
    """
    if not durations:
        return float("nan")
    median = statistics.median(durations)
    return statistics.mean(each for each in durations if each <= STOPPED * median) * steps


def steady_of_log(log: Path) -> float:
    """Return the time of all steps of a run's log."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    pairs = pairwise(records)
    durations = [b["time"] - a["time"] for a, b in pairs if a["event"] == b["event"] == "step"]
    return steady(durations, sum(record["event"] == "step" for record in records))
