"""What a probe finds: shares of the adapter beside those of the backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.evaluation.bootstrap import LEVEL
from adapterhub.evaluation.proportions import Delta, Proportion, paired_delta, proportion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

#: Which way a share is worse: a larger one, a smaller one, or further from one half.
WorseWhen = Literal["larger", "smaller", "from_half"]


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A share of pairs, answers or sentences.

    Args:
        name: what is counted.
        group: of whom; ``all`` for everyone.
        count: of how many.
        units: how many of them are independent, by which the intervals are made.
        worse: which way is worse.
        adapter: with the adapter.
        backbone: of the backbone; ``None`` where there is nothing to compare with.
        delta: the adapter less the backbone.
        shift: how far the likeliest change of a label's probability goes, on average;
            ``None`` where there are no probabilities.
        backbone_shift: the same of the backbone.
        gains: the label that gains most probability on average, and how much.
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
    gains: tuple[str, float] | None = None

    @property
    def got_worse(self) -> bool:
        """Whether the adapter is worse than the backbone by more than chance."""
        if self.delta is None or self.backbone is None or not self.delta.shown:
            return False
        if self.worse == "from_half":
            return abs(self.adapter.value - 0.5) > abs(self.backbone.value - 0.5)
        return (self.delta.value > 0) == (self.worse == "larger")


@dataclass(frozen=True, slots=True)
class AuditExample:
    """An example.

    Args:
        what: of which measure.
        text: that was read.
        other: its counterfactual; empty where there is none.
        before: what was said of ``text``, or by the backbone.
        after: what was said of ``other``, or by the adapter.
    """

    what: str
    text: str
    other: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BiasAuditResult:
    """What the probes found.

    Args:
        probe: ``bias`` or ``harm``.
        measures: in the order of a table.
        examples: to look at.
        backbone: what the adapter is compared with, in words; empty where with nothing.
        metric: name of the task's metric; empty where it was not measured.
        scores: the metric ``adapter`` and ``backbone`` reach on the same labelled rows.
        asked: sentences or requests that there were.
        done: how many of them were used before the time was over.
        counted: what counts as another answer, for readers; empty for answers in text.
        level: confidence of the intervals.
    """

    probe: Literal["bias", "harm"]
    measures: Sequence[GroupMetric]
    examples: Sequence[AuditExample]
    backbone: str
    metric: str
    scores: Mapping[str, float]
    asked: int
    done: int
    counted: str = ""
    level: float = LEVEL


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
    """Return a share of the adapter beside that of the backbone.

    Args:
        name: what is counted.
        group: of whom.
        adapter: whether each hits, ``[count]``.
        backbone: the same things; ``None`` where there is nothing to compare with.
        worse: which way is worse.
        units: how many are independent; all where not given.
        level: confidence of the intervals.
    """
    return GroupMetric(
        name=name,
        group=group,
        count=len(adapter),
        units=units or len(adapter),
        worse=worse,
        adapter=proportion(adapter, units=units, level=level),
        backbone=None if backbone is None else proportion(backbone, units=units, level=level),
        delta=None
        if backbone is None
        else paired_delta(backbone, adapter, units=units, level=level),
    )
