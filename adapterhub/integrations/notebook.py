"""Progress of a run in a notebook: one cell output with a bar and curves, renewed in place."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import TYPE_CHECKING, Any

from adapterhub.training.progress import clock, summary
from adapterhub.training.result_page import curves_html

if TYPE_CHECKING:
    from adapterhub.training.progress import EvaluationEvent, StepEvent

#: Seconds between two renewals of the output.
INTERVAL = 0.5
#: Most points of a curve while the run goes on.
_MOST_POINTS = 200


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    found = sys.modules.get("IPython")
    shell = found.get_ipython() if found is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookReporter:
    """Shows a bar, the last figures and the curves of a run in the output of a cell."""

    def __init__(self) -> None:
        self._display: Any = None
        self._last = 0.0
        self._status = ""
        self._metric = ""
        self._bar = (0, 1)
        self._messages: list[str] = []
        self._curves: dict[str, list[list[float]]] = {}

    def on_step(self, event: StepEvent) -> None:
        """Advance the bar and the curve of the loss."""
        self._bar = (event.step, event.total)
        self._status = (
            f"step {event.step}/{event.total}, loss {event.loss:.4f}, "
            f"{event.tokens_per_second:.0f} tokens/s, ETA {clock(event.eta_seconds)}"
        )
        self._add("train loss", event.step, event.loss)
        self._show(now=event.step == event.total)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Add a point to the curve of the watched metric."""
        self._metric = summary(event)
        self._add(event.watched, event.step, float(event.metrics[event.watched]))
        self._show(now=True)

    def on_message(self, text: str) -> None:
        """Add a line."""
        self._messages.append(text)
        self._show(now=True)

    def _add(self, name: str, step: int, value: float) -> None:
        self._curves.setdefault(name, []).append([step, value])

    def _show(self, *, now: bool) -> None:
        from IPython.display import HTML, display

        time_passed = time.monotonic() - self._last
        if not now and time_passed < INTERVAL:
            return
        self._last = time.monotonic()
        page = HTML(self.html())
        if self._display is None:
            self._display = display(page, display_id=True)
        else:
            self._display.update(page)

    def html(self) -> str:
        """Return the output as it is now."""
        done, total = self._bar
        lines = "<br>".join(escape(text) for text in self._messages)
        every = {name: -(-len(points) // _MOST_POINTS) for name, points in self._curves.items()}
        curves = [
            {"name": name, "points": points[::-1][:: every[name]][::-1]}
            for name, points in self._curves.items()
        ]
        return (
            f"<div><small>{lines}</small><br>"
            f'<progress value="{done}" max="{total}" style="width:20rem"></progress> '
            f"{escape(self._status)} {escape(self._metric)}<br>{curves_html(curves)}</div>"
        )
