"""Figures of reports as SVG; equal values give equal bytes."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from adapterhub.training.curves import render_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.calibration import Calibration
    from adapterhub.tasks.predictions import Array
    from adapterhub.training.learning_curve import LearningCurve

#: Number of labels above which a confusion matrix is illegible.
MOST_LABELS = 30


def draw_confusion(matrix: Array, labels: Sequence[str]) -> bytes:
    """Return the confusion matrix, shaded by the share of the actual label."""
    shares = matrix / matrix.sum(-1, keepdims=True).clip(min=1)
    places = range(len(labels))
    side = 2.2 + 0.32 * len(labels)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        # a dollar sign in a label does not start a formula
        axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=8, parse_math=False)
        axes.set_yticks(places, labels, fontsize=8, parse_math=False)
        axes.set(xlabel="predicted", ylabel="actual")
        if len(labels) <= MOST_LABELS // 2:
            for actual, predicted in product(places, places):
                color = "white" if shares[actual, predicted] > 0.5 else "black"
                count = str(int(matrix[actual, predicted]))
                style = {"ha": "center", "va": "center", "color": color, "fontsize": 8}
                axes.text(predicted, actual, count, **style)

    return render_figure(draw, (side + 1.0, side), "svg")


def draw_reliability(found: Calibration) -> bytes:
    """Return the reliability diagram: accuracy against confidence, and the size of each bin."""

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
        above.plot(
            [each.confidence for each in found.bins],
            [each.accuracy for each in found.bins],
            "o-",
            color="tab:blue",
        )
        above.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
        below.bar(
            [each.low for each in found.bins],
            [each.count for each in found.bins],
            width=[each.high - each.low for each in found.bins],
            align="edge",
            color="tab:blue",
            alpha=0.5,
        )
        below.set(xlabel="confidence", ylabel="count")

    return render_figure(draw, (4.5, 4.5), "svg")


def draw_learning_curve(curve: LearningCurve) -> bytes:
    """Return the metric against the number of training examples, with the forecast."""
    points = curve.points

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        sizes = [each.num_examples for each in points]
        axes.plot(sizes, [each.value for each in points], "o-", color="tab:blue")
        lows = [each.value if each.low is None else each.low for each in points]
        highs = [each.value if each.high is None else each.high for each in points]
        axes.fill_between(sizes, lows, highs, color="tab:blue", alpha=0.2)
        if curve.forecast is not None:
            ends = [points[-1].value, curve.forecast.value]
            axes.plot([sizes[-1], curve.forecast.num_examples], ends, "o--", color="gray")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="training examples", ylabel=f"{curve.metric} (validation)")

    return render_figure(draw, (6.0, 3.6), "svg")
