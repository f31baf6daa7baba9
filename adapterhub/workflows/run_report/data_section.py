"""What the data are like, and what of them should worry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.duplicates import NEAR
from adapterhub.workflows.run_report.blocks import Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.duplicates import Leak, SplitFacts
    from adapterhub.workflows.run_report.blocks import Block

#: Labels that are listed, the most frequent first.
SHOWN_LABELS = 30
_LONGEST = 200


def data_section(facts: Sequence[SplitFacts], leaks: Sequence[Leak], *, dropped: int) -> Section:
    """Return sizes, repeats, contradictions, label shares, and leaks between splits.

    Args:
        facts: of each split, training first.
        leaks: of each other split into training.
        dropped: repeated training rows that were removed before.
    """
    blocks: list[Block] = [Text(words, warning=True) for words in warnings(facts, leaks)]
    columns = (
        "split",
        ">rows",
        ">words, median",
        ">longest",
        ">repeated texts",
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
    caption = f"{dropped:,} repeated rows were dropped before." if dropped else ""
    blocks.append(Table(columns, rows, caption=caption))
    blocks += _leaks(leaks)
    blocks += _labels(facts)
    return Section("Data", blocks)


def warnings(facts: Sequence[SplitFacts], leaks: Sequence[Leak]) -> list[str]:
    """Return what of the data makes the figures doubtful, a sentence each."""
    found = []
    for leak in leaks:
        if leak.same or leak.near:
            found.append(
                f"{leak.same:,} {leak.split} rows are in training too, and {leak.near:,} of "
                f"{leak.looked_at:,} others that were looked at nearly are: the figures are too "
                "good by what was learned by heart. Set data.drop_duplicates, or split again."
            )
    for each in facts:
        if each.contradicting:
            found.append(
                f"{each.contradicting:,} texts of the {each.name} split come with more than one "
                "answer; nothing can be right on all of their rows."
            )
    return found


def _leaks(leaks: Sequence[Leak]) -> list[Block]:
    pairs = [(leak.split, pair) for leak in leaks for pair in leak.pairs]
    if not pairs:
        return []
    rows = [
        (split, _cut(pair.text), _cut(pair.training), f"{pair.similarity:.2f}")
        for split, pair in pairs
    ]
    caption = f"Texts that are nearly in training: cosine of pieces of words from {NEAR:g}."
    return [Table(("split", "text", "training text", ">cosine"), rows, caption=caption)]


def _labels(facts: Sequence[SplitFacts]) -> list[Block]:
    first = facts[0]
    if not first.labels:
        return []
    names = sorted(first.labels, key=lambda name: (-first.labels[name], name))
    rows = [
        (name, *(f"{split.labels.get(name, 0) / _total(split):.1%}" for split in facts))
        for name in names[:SHOWN_LABELS]
    ]
    more = len(names) - SHOWN_LABELS
    caption = f"{more} more labels are rarer." if more > 0 else ""
    columns = ("label", *(f">{split.name}" for split in facts))
    return [Table(columns, rows, caption=caption)]


def _total(split: SplitFacts) -> int:
    return max(sum(split.labels.values()), 1)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"
