"""Progress events of a run, and reporters for terminals, pipes and log files."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

logger = logging.getLogger(__name__)

#: Seconds between two lines of ``PlainReporter``.
PLAIN_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One optimizer step; throughput is without padding, and the ETA without evaluations."""

    step: int
    total: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationEvent:
    """One evaluation; step 0 is before training.

    Args:
        step: Optimizer steps done.
        metrics: Validation metrics.
        watched: Metric that selects the best weights.
        best: Its best value so far; ``None`` before training, whose weights are never kept.
    """

    step: int
    metrics: Mapping[str, float]
    watched: str
    best: float | None


class Reporter(Protocol):
    """Receiver of a run's progress events."""

    def on_step(self, event: StepEvent) -> None:
        """Handle an optimizer step."""

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Handle an evaluation."""

    def on_message(self, text: str) -> None:
        """Handle a message."""


class Reporters:
    """Passes events on to several reporters."""

    def __init__(self, members: Sequence[Reporter]) -> None:
        self._members = tuple(members)

    def on_step(self, event: StepEvent) -> None:
        """Pass the event on."""
        for member in self._members:
            member.on_step(event)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Pass the event on."""
        for member in self._members:
            member.on_evaluation(event)

    def on_message(self, text: str) -> None:
        """Pass the event on."""
        for member in self._members:
            member.on_message(text)


class JsonLinesReporter:
    """Writes one JSON object per event to a log file, from which plots are drawn."""

    def __init__(self, path: Path, *, append: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a" if append else "w", encoding="utf-8", buffering=1)

    def on_step(self, event: StepEvent) -> None:
        """Write a ``step`` record."""
        self._write("step", asdict(event))

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Write an ``evaluation`` record."""
        self._write("evaluation", {**asdict(event), "metrics": dict(event.metrics)})

    def on_message(self, text: str) -> None:
        """Write a ``message`` record."""
        self._write("message", {"text": text})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, record: Mapping[str, Any]) -> None:
        line = {"event": kind, "time": round(time.time(), 3), **record}
        self._file.write(json.dumps(line) + "\n")


class PlainReporter:
    """Prints a line every few seconds, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = -PLAIN_INTERVAL

    def on_step(self, event: StepEvent) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL and event.step != event.total:
            return
        self._last = now
        self._line(
            f"step {event.step}/{event.total}  loss {event.loss:.4f}  "
            f"{event.tokens_per_second:.0f} tokens/s  ETA {clock(event.eta_seconds)}"
        )

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Print a line."""
        self._line(f"evaluation at step {event.step}  {summary(event)}")

    def on_message(self, text: str) -> None:
        """Print a line."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class RichReporter:
    """Shows a live progress bar on a terminal; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("training", total=None, status="")
        self._metric = ""

    def __enter__(self) -> RichReporter:
        """Start the progress bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the progress bar."""
        self._bar.stop()

    def on_step(self, event: StepEvent) -> None:
        """Advance the progress bar."""
        status = (
            f"loss {event.loss:.4f}  {event.tokens_per_second:.0f} tokens/s  "
            f"ETA {clock(event.eta_seconds)}  {self._metric}"
        )
        self._bar.update(self._task, completed=event.step, total=event.total, status=status)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Show the last and best value of the watched metric."""
        self._metric = summary(event)
        self.on_message(f"evaluation at step {event.step}  {self._metric}")

    def on_message(self, text: str) -> None:
        """Print above the progress bar."""
        self._console.print(text, highlight=False, markup=False)


def summary(event: EvaluationEvent) -> str:
    """Return the last and best value of the watched metric as text."""
    best = "before training" if event.best is None else f"best {event.best:.4f}"
    return f"{event.watched} {event.metrics[event.watched]:.4f} ({best})"


def clock(seconds: float) -> str:
    """Return ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
