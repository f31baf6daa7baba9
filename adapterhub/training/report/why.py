"""Answers with the words that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.explaining.explanation import LARGE_GAP
from adapterhub.training.report.blocks import Heading, Section, Table, Text, Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.explaining.examples import ExplainedExample
    from adapterhub.explaining.explanation import Explanation
    from adapterhub.training.report.blocks import Block

TITLE = "Why this answer"
#: Words that the table under a text names.
SHOWN_WORDS = 5
_METHOD = (
    "Integrated gradients over the words' embeddings: what each word adds to the number that is "
    "explained, on the way from a text of unknown words to the text. Blue with a solid line is "
    "for the answer, orange with a dashed line against it; the strongest word of a text has the "
    "full colour. It says what this adapter reacted to, not whether that is a good reason."
)


def why_section(examples: Sequence[ExplainedExample] | None) -> Section:
    """Return the section; without blocks where there are no examples.

    Args:
        examples: explained; ``None`` where explaining them failed.
    """
    if examples is None:
        failed = "The answers could not be explained; the log of the run says why."
        return Section(TITLE, (Text(failed, warning=True),))
    if not examples:
        return Section(TITLE)
    blocks: list[Block] = [Text(_METHOD)]
    for each in examples:
        blocks.append(Heading(f"{each.why[0].upper()}{each.why[1:]}: {said(each.found)}"))
        if each.expected != each.found.answer:
            blocks.append(Text(f"The right answer is {each.expected}."))
        blocks += explanation_blocks(each.found)
    return Section(TITLE, blocks)


def explained_section(found: Explanation) -> Section:
    """Return one explanation as a section of its own."""
    return Section(said(found), (Text(_METHOD), *explanation_blocks(found)))


def said(found: Explanation) -> str:
    """Return an answer with its probability."""
    sure = "" if found.probability is None else f" ({found.probability:.3f})"
    return f"{' '.join(found.answer.split())}{sure}"


def honest(found: Explanation) -> str:
    """Return what was explained, against what, and how well the parts add up."""
    share = f"{found.gap_share:.1%} of it" if found.value != found.baseline_value else "all of it"
    unread = f" {found.unread} words were cut off and not read." if found.unread else ""
    return (
        f"Explained: {found.quantity}, {found.value:.3f}; with {found.baseline} for every word "
        f"{found.baseline_value:.3f}. The words add up to the difference but for "
        f"{found.gap:+.3f} ({share}) after {found.steps} steps.{unread}"
    )


def explanation_blocks(found: Explanation) -> list[Block]:
    """Return the texts with their words shaded, the strongest words, and the fine print."""
    named = len(found.texts) > 1
    blocks: list[Block] = [
        Words(name if named else "", _shaded(found, name)) for name in found.texts
    ]
    strongest = sorted(found.words, key=lambda word: -abs(word.attribution))[:SHOWN_WORDS]
    rows = [(word.word, f"{word.attribution:+.3f}") for word in strongest if word.attribution]
    blocks.append(Table(("strongest words", ">attribution"), rows))
    blocks.append(Text(honest(found), warning=found.gap_share > LARGE_GAP))
    return blocks


def _shaded(found: Explanation, name: str) -> list[tuple[str, float | None, str]]:
    return [
        (piece, None, "") if value is None else (piece, value / found.strongest, f"{value:+.3f}")
        for piece, value in found.pieces(name)
    ]
