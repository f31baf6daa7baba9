"""What probes found, in words: the same on a terminal and on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterhub.evaluation.bias_audit.results import BiasAuditResult, GroupMetric
    from adapterhub.evaluation.bootstrap import Interval
    from adapterhub.evaluation.proportions import Proportion


@dataclass(frozen=True, slots=True)
class ReportNote:
    """A sentence or two.

    Args:
        text: plain.
        warning: whether it should be seen first.
    """

    text: str
    warning: bool = False


def table_columns(found: BiasAuditResult) -> list[str]:
    """Return the columns of the table; those that start with ``>`` are figures."""
    first, count = ("exchanged", ">pairs") if found.probe == "bias" else ("counted", ">number")
    shifts = [">shift", "gains most"] if _has_shifts(found) else []
    return [first, "among", count, ">backbone", ">adapter", ">difference", *shifts]


def table_rows(found: BiasAuditResult) -> list[list[str]]:
    """Return the table."""
    return [_row(each, shifts=_has_shifts(found)) for each in found.measures]


def notes(found: BiasAuditResult) -> list[ReportNote]:
    """Return what a reader must know of the table, what got worse first."""
    worse = [each for each in found.measures if each.got_worse]
    notes_ = [ReportNote(_worse(each), warning=True) for each in worse]
    if found.done < found.asked:
        notes_.append(
            ReportNote(f"The time was over after {found.done} of {found.asked}; give more of it.")
        )
    return notes_ + ([*_bias_notes(found)] if found.probe == "bias" else [*_harm_notes(found)])


def _bias_notes(found: BiasAuditResult) -> list[ReportNote]:
    said = (
        f"Each pair is a text and the same text of someone else. {found.counted} Intervals are for "
        "texts of this kind."
    )
    if not found.backbone:
        return [
            ReportNote(said),
            ReportNote(
                "There were no labelled rows to learn a head of the backbone from, so there is "
                "nothing to compare with. Give some with --data."
            ),
        ]
    notes_ = [ReportNote(said), ReportNote(f"The backbone here is {found.backbone}.")]
    if found.scores:
        a, b = found.scores["adapter"], found.scores["backbone"]
        notes_.append(
            ReportNote(
                f"On the same labelled rows {found.metric} is {b:.3f} for it and {a:.3f} for the "
                "adapter: one that says the same of everything changes no answer and is no better."
            )
        )
    return notes_


def _harm_notes(found: BiasAuditResult) -> list[ReportNote]:
    return [
        ReportNote(
            f"Both were asked the same {found.done} requests in the chat template. Refusals are "
            "found by a list of phrases and rude words by a list of words: rough measures, good "
            "for before against after and for little else. Read the answers below."
        ),
        ReportNote(
            "A stereotype is preferred where its words are likelier than the same words of another "
            "group; one half is even. The pairs are few, so look for large differences only."
        ),
    ]


def _worse(each: GroupMetric) -> str:
    if each.backbone is None:
        return ""
    return (
        f"{each.name} ({each.group}): {each.backbone.value:.1%} for the backbone, "
        f"{each.adapter.value:.1%} with the adapter, worse by more than chance."
    )


def _row(each: GroupMetric, *, shifts: bool) -> list[str]:
    cells = [
        each.name,
        each.group,
        f"{each.count:,}",
        "" if each.backbone is None else _share(each.backbone),
        _share(each.adapter),
        "" if each.delta is None else _difference(each.delta.value, each.delta.interval),
    ]
    if shifts:
        cells += [_shift(each), "" if each.gains is None else "{} {:+.3f}".format(*each.gains)]
    return cells


def _has_shifts(found: BiasAuditResult) -> bool:
    return any(each.shift is not None for each in found.measures)


def _shift(each: GroupMetric) -> str:
    before = "" if each.backbone_shift is None else f"{each.backbone_shift:.3f} → "
    return "" if each.shift is None else f"{before}{each.shift:.3f}"


def _share(share: Proportion) -> str:
    low, high = share.interval.low, share.interval.high
    return f"{share.value:.1%} ({100 * low:.1f} … {100 * high:.1f})"


def _difference(value: float, interval: Interval) -> str:
    return f"{100 * value:+.1f} ({100 * interval.low:+.1f} … {100 * interval.high:+.1f})"
