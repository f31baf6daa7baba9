"""Drawings of a report, as SVG; equal values give equal bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from adapterhub.evaluation.calibration import Calibration
    from adapterhub.evaluation.example_statistics import Array
    from adapterhub.training.curves import Curves
    from adapterhub.training.learning_curve import LearningCurve

#: Labels above which a matrix can't be read.
MOST_LABELS = 30


def draw_curves(curves: Curves) -> bytes:
    """Return loss and watched metric over the run.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot(curves.steps, curves.losses, color="tab:blue", linewidth=1)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("training loss", color="tab:blue")
        axes.xaxis.get_major_locator().set_params(integer=True)
        other = axes.twinx()
        other.plot(curves.metric_steps, curves.metric_values, "o-", color="tab:orange")
        other.set_ylabel(f"{curves.metric} (validation)", color="tab:orange")

    return _svg(draw, (7.0, 3.2))


def draw_confusion(matrix: Array, labels: Sequence[str]) -> bytes:
    """Return a matrix of right labels against those said, each row as shares of its sum.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """
    shares = matrix / matrix.sum(-1, keepdims=True).clip(min=1)
    places = range(len(labels))
    side = 2.2 + 0.32 * len(labels)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        # a label is what it says, dollar signs and all, and no formula
        axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=8, parse_math=False)
        axes.set_yticks(places, labels, fontsize=8, parse_math=False)
        axes.set(xlabel="said", ylabel="right")
        if len(labels) <= MOST_LABELS // 2:
            for row in places:
                for column in places:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    value = str(int(matrix[row, column]))
                    axes.text(column, row, value, ha="center", va="center", color=color, fontsize=8)

    return _svg(draw, (side + 1.0, side))


def draw_reliability(found: Calibration) -> bytes:
    """Return accuracy against confidence, and how many predictions each bin has.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
        above.plot(
            [each.confidence for each in found.bins],
            [each.accuracy for each in found.bins],
            "o-",
            color="tab:blue",
        )
        above.set(ylabel="share right", ylim=(0, 1), xlim=(0, 1))
        below.bar(
            [each.low for each in found.bins],
            [each.count for each in found.bins],
            width=[each.high - each.low for each in found.bins],
            align="edge",
            color="tab:blue",
            alpha=0.5,
        )
        below.set(xlabel="confidence", ylabel="number")

    return _svg(draw, (4.5, 4.5))


def draw_learning_curve(curve: LearningCurve) -> bytes:
    """Return the metric against the number of rows, with the forecast for twice as many.

    Raises:
        MissingExtraError: when matplotlib isn't installed.
    """
    points = curve.points

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        sizes = [each.rows for each in points]
        axes.plot(sizes, [each.value for each in points], "o-", color="tab:blue")
        lows = [each.value if each.low is None else each.low for each in points]
        highs = [each.value if each.high is None else each.high for each in points]
        axes.fill_between(sizes, lows, highs, color="tab:blue", alpha=0.2)
        if curve.forecast is not None:
            ends = [points[-1].value, curve.forecast.value]
            axes.plot([sizes[-1], curve.forecast.rows], ends, "o--", color="gray")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="training rows", ylabel=f"{curve.metric} (validation)")

    return _svg(draw, (6.0, 3.6))


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    with matplotlib.rc_context({"svg.hashsalt": "adapterhub", "svg.fonttype": "path"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
