"""Results of a bias audit, and their presentation as a table with notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.evaluation.bootstrap import LEVEL
from adapterhub.evaluation.proportions import Delta, Proportion, paired_delta, proportion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

#: Direction in which a proportion gets worse: larger, smaller, or further from one half.
WorseWhen = Literal["larger", "smaller", "from_half"]


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A proportion of pairs, answers or sentences in one group.

    Args:
        group: Group, or source of the examples.
        units: Number of independent observations, which the intervals are based on.
        worse: Direction in which the metric gets worse.
        adapter: Proportion with the adapter.
        backbone: Proportion without it; ``None`` where there is no baseline.
        delta: Difference of the adapter to the backbone.
        shift: Mean of the largest change of a probability; ``None`` without probabilities.
        backbone_shift: The same without the adapter.
        largest_gain: Label with the largest mean increase of its probability, and the increase.
    """

    name: str
    group: str
    count: int
    units: int
    worse: WorseWhen
    adapter: Proportion
    backbone: Proportion | None = None
    delta: Delta | None = None
    shift: float | None = None
    backbone_shift: float | None = None
    largest_gain: tuple[str, float] | None = None

    @property
    def got_worse(self) -> bool:
        """Whether the adapter is significantly worse than the backbone."""
        if self.delta is None or self.backbone is None or not self.delta.shown:
            return False
        if self.worse == "from_half":
            return abs(self.adapter.value - 0.5) > abs(self.backbone.value - 0.5)
        return (self.delta.value > 0) == (self.worse == "larger")


@dataclass(frozen=True, slots=True)
class AuditExample:
    """An example of an audit.

    Args:
        other: Counterfactual of the text; empty where there is none.
        before: Answer to ``text``, or answer of the backbone.
        after: Answer to ``other``, or answer of the adapter.
    """

    what: str
    text: str
    other: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BiasAuditResult:
    """Result of a bias audit.

    Args:
        kind: ``bias`` for predictions on counterfactuals, ``harm`` for generated answers.
        baseline: Description of the baseline; empty without one.
        task_metric: Name of the task's metric; empty where it was not measured.
        scores: Value of the metric for ``adapter`` and ``backbone`` on the same examples.
        total: Number of counterfactual sets or requests.
        completed: Number of them within the time limit.
        definition: Definition of a changed prediction; empty for generated answers.
    """

    kind: Literal["bias", "harm"]
    metrics: Sequence[GroupMetric]
    examples: Sequence[AuditExample]
    baseline: str
    task_metric: str
    scores: Mapping[str, float]
    total: int
    completed: int
    definition: str = ""
    level: float = LEVEL


@dataclass(frozen=True, slots=True)
class ReportNote:
    """A note below the table."""

    text: str
    warning: bool = False


def group_metric(
    name: str,
    group: str,
    adapter: NDArray[np.bool_],
    backbone: NDArray[np.bool_] | None,
    *,
    worse: WorseWhen,
    units: int | None = None,
    level: float = LEVEL,
) -> GroupMetric:
    """Return the proportions of adapter and backbone with intervals.

    Args:
        adapter: Observations with the adapter, ``[count]``.
        backbone: The same observations without it; ``None`` without a baseline.
        units: Number of independent observations; default all.
    """
    before, delta = None, None
    if backbone is not None:
        before = proportion(backbone, units=units, level=level)
        delta = paired_delta(backbone, adapter, units=units, level=level)
    return GroupMetric(
        name=name,
        group=group,
        count=len(adapter),
        units=units or len(adapter),
        worse=worse,
        adapter=proportion(adapter, units=units, level=level),
        backbone=before,
        delta=delta,
    )


def table_columns(found: BiasAuditResult) -> list[str]:
    """Return the columns of the table; those that start with ``>`` are numbers."""
    first, count = ("substituted", ">pairs") if found.kind == "bias" else ("metric", ">count")
    shifts = [">shift", "largest gain"] if _has_shifts(found) else []
    return [first, "group", count, ">backbone", ">adapter", ">difference", *shifts]


def table_rows(found: BiasAuditResult) -> list[list[str]]:
    """Return the cells of the table."""
    return [_cells(metric, shifts=_has_shifts(found)) for metric in found.metrics]


def notes(found: BiasAuditResult) -> list[ReportNote]:
    """Return the notes below the table, warnings first."""
    worse = [
        ReportNote(
            f"{metric.name} ({metric.group}): {metric.backbone.value:.1%} for the backbone, "
            f"{metric.adapter.value:.1%} with the adapter, a significant deterioration.",
            warning=True,
        )
        for metric in found.metrics
        if metric.got_worse and metric.backbone is not None
    ]
    if found.completed < found.total:
        worse.append(
            ReportNote(
                f"The time limit was reached after {found.completed} of {found.total}; raise it "
                "with --max-seconds."
            )
        )
    return worse + (_bias_notes(found) if found.kind == "bias" else _harm_notes(found))


def _bias_notes(found: BiasAuditResult) -> list[ReportNote]:
    method = ReportNote(
        "Each pair is a text and its counterfactual, with names, pronouns or nationalities "
        f"substituted. {found.definition} Intervals are for texts of this kind."
    )
    if not found.baseline:
        return [
            method,
            ReportNote(
                "There is no baseline: a linear probe of the backbone needs labelled examples. "
                "Give some with --data."
            ),
        ]
    result = [method, ReportNote(f"The baseline is {found.baseline}.")]
    if found.scores:
        adapter, backbone = found.scores["adapter"], found.scores["backbone"]
        result.append(
            ReportNote(
                f"On the same labelled examples its {found.task_metric} is {backbone:.3f}, that of "
                f"the adapter {adapter:.3f}. Compare both: a constant prediction never changes, "
                "and is useless."
            )
        )
    return result


def _harm_notes(found: BiasAuditResult) -> list[ReportNote]:
    return [
        ReportNote(
            f"Adapter and backbone answered the same {found.completed} requests in the chat "
            "template. Refusals are detected by a list of phrases and rude words by a list of "
            "words: rough measures that only compare before and after. Read the answers below."
        ),
        ReportNote(
            "A stereotype is preferred where its words are likelier than the same words about "
            "another group; one half is neutral. The pairs are few, so only large differences "
            "are meaningful."
        ),
    ]


def _cells(metric: GroupMetric, *, shifts: bool) -> list[str]:
    cells = [
        metric.name,
        metric.group,
        f"{metric.count:,}",
        "" if metric.backbone is None else _proportion(metric.backbone),
        _proportion(metric.adapter),
        "" if metric.delta is None else _difference(metric.delta),
    ]
    if shifts:
        gain = metric.largest_gain
        cells += [_shift(metric), "" if gain is None else f"{gain[0]} {gain[1]:+.3f}"]
    return cells


def _has_shifts(found: BiasAuditResult) -> bool:
    return any(metric.shift is not None for metric in found.metrics)


def _shift(metric: GroupMetric) -> str:
    before = "" if metric.backbone_shift is None else f"{metric.backbone_shift:.3f} → "
    return "" if metric.shift is None else f"{before}{metric.shift:.3f}"


def _proportion(share: Proportion) -> str:
    low, high = share.interval.low, share.interval.high
    return f"{share.value:.1%} ({100 * low:.1f} … {100 * high:.1f})"


def _difference(delta: Delta) -> str:
    low, high = delta.interval.low, delta.interval.high
    return f"{100 * delta.value:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})"
