"""Training curves of a run, read from its log, and their plot."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PLOT_NAMES = ("loss.png", "loss.svg")


@dataclass(frozen=True, slots=True)
class Curves:
    """Training loss at each step, and watched metric at each step with an evaluation."""

    steps: Sequence[int]
    losses: Sequence[float]
    metric: str
    metric_steps: Sequence[int]
    metric_values: Sequence[float]


def read_curves(path: Path) -> Curves:
    """Read the curves from a log of JSON Lines; the last record of a repeated step counts."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    losses = {r["step"]: r["loss"] for r in records if r["event"] == "step"}
    evaluations: dict[int, Any] = {r["step"]: r for r in records if r["event"] == "evaluation"}
    metric = next((r["watched"] for r in evaluations.values()), "")
    return Curves(
        steps=sorted(losses),
        losses=[losses[step] for step in sorted(losses)],
        metric=metric,
        metric_steps=sorted(evaluations),
        metric_values=[evaluations[step]["metrics"][metric] for step in sorted(evaluations)],
    )


def curve_points(curves: Curves, *, most: int = 200) -> list[dict[str, Any]]:
    """Return the curves as plain JSON, thinned to ``most`` points each, the last point included."""
    named = [
        ("train loss", curves.steps, curves.losses),
        (curves.metric, curves.metric_steps, curves.metric_values),
    ]
    found = []
    for name, steps, values in named:
        pairs = [[step, value] for step, value in zip(steps, values, strict=True)]
        every = -(-len(pairs) // most) or 1
        thinned = pairs[::-1][::every][::-1]
        if thinned:
            found.append({"name": name, "points": thinned})
    return found


def plot_curves(
    curves: Curves, *, title: str = "", names: Sequence[str] = PLOT_NAMES
) -> dict[str, bytes]:
    """Return the plot by file name, as PNG or SVG; equal curves give equal bytes.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """

    def draw(figure: Any) -> None:
        loss_axes = figure.add_subplot()
        loss_axes.plot(curves.steps, curves.losses, color="tab:blue", linewidth=1)
        loss_axes.set(title=title, xlabel="optimizer step", ylabel="training loss")
        metric_axes = loss_axes.twinx()
        metric_axes.plot(curves.metric_steps, curves.metric_values, "o-", color="tab:orange")
        metric_axes.set_ylabel(f"{curves.metric} (validation)")

    return {name: render_figure(draw, (7, 3.5), name.rpartition(".")[2]) for name in names}


def render_figure(draw: Callable[[Any], None], size: tuple[float, float], kind: str) -> bytes:
    """Return a figure of a size in inches as PNG or SVG; equal figures give equal bytes.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "adapterhub", "svg.fonttype": "path"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=120)
        return buffer.getvalue()
