"""Report section on the data: sizes, duplicates, contradictions, label shares, leakage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.duplicates import NEAR
from adapterhub.workflows.run_report.blocks import Section, Table, Text, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.duplicates import Leak, SplitFacts
    from adapterhub.workflows.run_report.blocks import Block

#: Labels that are listed, the most frequent first.
SHOWN_LABELS = 30
_LONGEST = 200


def data_section(facts: Sequence[SplitFacts], leaks: Sequence[Leak], *, dropped: int) -> Section:
    """Return the section."""
    blocks: list[Block] = [Text(warning, warning=True) for warning in warnings(facts, leaks)]
    columns = (
        "split",
        ">examples",
        ">words, median",
        ">words, longest",
        ">duplicate texts",
        ">contradicting texts",
    )
    rows = [
        (
            each.name,
            f"{each.examples:,}",
            f"{each.median_words:.0f}",
            f"{each.longest_words:,}",
            f"{each.repeated:,}",
            f"{each.contradicting:,}",
        )
        for each in facts
    ]
    caption = f"{dropped:,} duplicate examples were dropped before." if dropped else ""
    blocks.append(Table(columns, rows, caption=caption))
    blocks += _near_duplicates(leaks)
    blocks += _labels(facts)
    return Section("Data", blocks)


def warnings(facts: Sequence[SplitFacts], leaks: Sequence[Leak]) -> list[str]:
    """Return what makes the metrics doubtful, one sentence each."""
    found = [
        f"{leak.same:,} {leak.split} examples are also in training, and {leak.near:,} of "
        f"{leak.looked_at:,} others that were compared are near-duplicates of training examples, "
        f"so the metrics partly measure memorization. Remove them from the {leak.split} "
        f"examples; a split that data.split holds out repeats no training example."
        for leak in leaks
        if leak.same or leak.near
    ]
    found += [
        f"{each.contradicting:,} texts of the {each.name} split occur with more than one label or "
        "answer, so no model can be right on all of them."
        for each in facts
        if each.contradicting
    ]
    return found


def _near_duplicates(leaks: Sequence[Leak]) -> list[Block]:
    rows = [
        (
            leak.split,
            shorten(pair.text, _LONGEST),
            shorten(pair.training, _LONGEST),
            f"{pair.similarity:.2f}",
        )
        for leak in leaks
        for pair in leak.pairs
    ]
    caption = (
        f"Near-duplicates of training texts: cosine similarity of character n-grams ≥ {NEAR:g}."
    )
    return [Table(("split", "text", "training text", ">cosine"), rows, caption)] if rows else []


def _labels(facts: Sequence[SplitFacts]) -> list[Block]:
    first = facts[0]
    if not first.labels:
        return []
    names = sorted(first.labels, key=lambda name: (-first.labels[name], name))
    totals = [max(sum(split.labels.values()), 1) for split in facts]
    rows = [
        (
            name,
            *(
                f"{split.labels.get(name, 0) / total:.1%}"
                for split, total in zip(facts, totals, strict=True)
            ),
        )
        for name in names[:SHOWN_LABELS]
    ]
    more = len(names) - SHOWN_LABELS
    caption = f"{more} less frequent labels are not listed." if more > 0 else ""
    return [Table(("label", *(f">{split.name}" for split in facts)), rows, caption)]
