"""Report sections on validation predictions: metrics, labels, confusion, calibration, errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.errors import most_confused
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.workflows.run_report.blocks import Figure, Section, Table, Text, shorten
from adapterhub.workflows.run_report.figures import MOST_LABELS, draw_confusion, draw_reliability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.evaluation.bootstrap import Interval
    from adapterhub.evaluation.calibration import Calibration, Temperature
    from adapterhub.tasks.predictions import ErrorExample, LabelChoices
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.result import TrainingEvidence
    from adapterhub.workflows.run_report.blocks import Block

#: Pairs of labels listed in the confusion section.
SHOWN_PAIRS = 15
#: Labels listed.
SHOWN_LABELS = 200
#: Longest text of an error example, in characters.
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class ReportedMetric:
    """A metric before and after training, with intervals where it can be resampled."""

    before: float | None
    after: float
    before_interval: Interval | None
    interval: Interval | None


def reported_metrics(
    evidence: TrainingEvidence,
    metrics_before: Mapping[str, float],
    resamples: int,
    level: float,
) -> dict[str, ReportedMetric]:
    """Return each metric with its bootstrap intervals."""

    def found(predictions: Predictions | None) -> dict[str, Interval]:
        if predictions is None:
            return {}
        scores = scores_of(evidence.task, predictions.examples, predictions.decoded)
        return intervals(scores, resamples=resamples, level=level)

    before, after = found(evidence.before), found(evidence.after)
    return {
        name: ReportedMetric(metrics_before.get(name), value, before.get(name), after.get(name))
        for name, value in evidence.after.evaluation.metrics.items()
    }


def results_section(metrics: Mapping[str, ReportedMetric], count: int, level: float) -> Section:
    """Return the table of metrics before and after training."""
    table = Table(
        ("metric", ">before", f">{level:.0%} interval", ">after", f">{level:.0%} interval"),
        [
            (
                name,
                "" if each.before is None else f"{each.before:.4f}",
                _interval(each.before_interval),
                f"{each.after:.4f}",
                _interval(each.interval),
            )
            for name, each in metrics.items()
        ],
        caption=f"On {count} validation examples. Intervals are bootstrap percentiles: they show "
        "how the metric varies with the examples, not between training runs.",
    )
    note = Text(
        "The same validation examples selected the stored weights, so these metrics are slightly "
        "optimistic. Measure on held-out examples with adapterhub eval."
    )
    return Section("Results", (table, note))


def labels_section(table: Sequence[Mapping[str, float | str]]) -> Section:
    """Return precision, recall and F1 of each label, the lowest F1 first."""
    if not table:
        return Section("Labels")
    ordered = sorted(table, key=worst_first)
    rows = [
        (
            str(label["label"]),
            *(f"{float(label[key]):.3f}" for key in ("precision", "recall", "f1")),
            f"{float(label['support']):.0f}",
        )
        for label in ordered[:SHOWN_LABELS]
    ]
    caption = "Sorted by F1, lowest first."
    if len(ordered) > SHOWN_LABELS:
        caption += f" {len(ordered) - SHOWN_LABELS:,} further labels are not listed."
    columns = ("label", ">precision", ">recall", ">F1", ">support")
    return Section("Labels", (Table(columns, rows, caption=caption),))


def worst_first(label: Mapping[str, float | str]) -> tuple[bool, float, float]:
    """Return the sort key of a label: those that occur by F1, then those that do not."""
    support = float(label["support"])
    return support == 0, float(label["f1"]), -support


def confusion_section(choices: LabelChoices, *, draw: bool) -> Section:
    """Return the confusion matrix, where it is legible, and the labels confused most often."""
    blocks: list[Block] = []
    if draw and len(choices.labels) <= MOST_LABELS:
        caption = (
            f"Actual against predicted labels, in {choices.unit}; shades are shares of the actual "
            "label"
        )
        blocks.append(Figure(draw_confusion(choices.confusion(), choices.labels), caption))
    pairs = most_confused(choices, SHOWN_PAIRS)
    if pairs:
        rows = [(p.gold, p.predicted, str(p.count), f"{p.share:.1%}") for p in pairs]
        columns = ("actual", "predicted", f">{choices.unit}", ">share of the actual label")
        blocks.append(Table(columns, rows, caption="Labels confused most often."))
    else:
        blocks.append(Text("No label was confused with another."))
    return Section("Confusion", blocks)


def calibration_section(
    found: Calibration, temperature: Temperature | None, unit: str, stored: float, *, draw: bool
) -> Section:
    """Return the calibration error, and what a fitted temperature changes."""
    bins = f"{len(found.bins)} bin{'s' if len(found.bins) != 1 else ''}"
    blocks: list[Block] = [
        Text(
            f"Expected calibration error {found.error:.4f} over {bins} of {unit}: the average "
            "difference between confidence and accuracy."
        )
    ]
    if draw:
        caption = "Accuracy against confidence; a calibrated model lies on the dashed line"
        blocks.append(Figure(draw_reliability(found), caption))
    if temperature is not None:
        blocks.append(_temperature(temperature))
        blocks.append(Text(f"The temperature stored with this adapter is {stored:g}."))
    return Section("Calibration", blocks)


def errors_section(examples: Sequence[ErrorExample]) -> Section:
    """Return the examples with the worst predictions."""
    if not examples:
        return Section("Error examples")
    predicts = any(example.predicted for example in examples)
    columns = ["text", "actual", *(["predicted"] if predicts else []), f">{examples[0].measure}"]
    rows = [
        [
            shorten(each.text, _LONGEST),
            shorten(each.expected, _LONGEST),
            *([shorten(each.predicted, _LONGEST)] if predicts else []),
            f"{each.error:.2f}",
        ]
        for each in examples
    ]
    return Section("Error examples", (Table(columns, rows),))


def _temperature(found: Temperature) -> Table:
    rows = [
        ("expected calibration error", f"{found.before:.4f}", f"{found.after:.4f}"),
        ("negative log-likelihood", f"{found.nll_before:.4f}", f"{found.nll_after:.4f}"),
    ]
    caption = (
        f"Temperature {found.value:.3f}, fitted on the validation examples. The values with it are "
        "cross-fitted: each half of the examples uses the temperature of the other half."
    )
    return Table(("", ">without", ">with temperature"), rows, caption=caption)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} … {interval.high:.4f}"
