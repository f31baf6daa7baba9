"""Metrics before and after with their intervals, and the scores of each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.workflows.run_report.blocks import Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.evaluation.bootstrap import Interval
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric before and after training.

    Args:
        before: of the untrained adapter; ``None`` where it was not measured.
        after: of the adapter.
        before_interval: of ``before``, where it can be resampled.
        interval: of ``after``, where it can be resampled.
    """

    before: float | None
    after: float
    before_interval: Interval | None
    interval: Interval | None


def metric_rows(
    task: Task,
    before: Predictions | None,
    known_before: Mapping[str, float],
    after: Predictions,
    *,
    resamples: int,
    level: float,
) -> dict[str, MetricRow]:
    """Return each metric with its bootstrap intervals.

    Args:
        task: that made the predictions.
        before: predictions of the untrained adapter; ``None`` in a run that was resumed.
        known_before: its metrics, which a resumed run still knows.
        after: predictions of the adapter.
        resamples: of the bootstrap.
        level: confidence.
    """
    earlier = {} if before is None else _intervals(task, before, resamples, level)
    later = _intervals(task, after, resamples, level)
    return {
        name: MetricRow(known_before.get(name), value, earlier.get(name), later.get(name))
        for name, value in after.evaluation.metrics.items()
    }


def results_section(rows: Mapping[str, MetricRow], count: int, level: float) -> Section:
    """Return the table of metrics."""
    table = Table(
        ("metric", ">before", f">{level:.0%} interval", ">after", f">{level:.0%} interval"),
        [
            (
                name,
                "" if row.before is None else f"{row.before:.4f}",
                _shown(row.before_interval),
                f"{row.after:.4f}",
                _shown(row.interval),
            )
            for name, row in rows.items()
        ],
        caption=f"On {count} validation rows. Intervals are percentiles over resampled rows: "
        "what other rows of the same kind would have given, not other training runs.",
    )
    note = Text(
        "The validation rows also chose which weights were kept, so these figures are a "
        "little too good; measure on rows that played no part with adapterhub eval."
    )
    return Section("Results", (table, note))


def labels_section(table: Sequence[Mapping[str, float | str]]) -> Section:
    """Return precision, recall and F1 of each label, the weakest first."""
    if not table:
        return Section("Labels")
    ordered = sorted(table, key=lambda row: (float(row["f1"]), -float(row["support"])))
    rows = [
        (
            str(row["label"]),
            *(f"{float(row[key]):.3f}" for key in ("precision", "recall", "f1")),
            f"{float(row['support']):.0f}",
        )
        for row in ordered
    ]
    columns = ("label", ">precision", ">recall", ">F1", ">support")
    return Section("Labels", (Table(columns, rows, caption="The weakest first."),))


def _intervals(
    task: Task, scored: Predictions, resamples: int, level: float
) -> dict[str, Interval]:
    scores = scores_of(task, scored.rows, scored.decoded)
    return intervals(scores, resamples=resamples, level=level)


def _shown(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} … {interval.high:.4f}"
