"""Answers with the words that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.attribution.results import LARGE_GAP
from adapterhub.workflows.run_report.blocks import Heading, Section, Table, Text, Words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.evaluation.attribution.examples import ExplainedExample
    from adapterhub.evaluation.attribution.methods import AttributionMethod
    from adapterhub.evaluation.attribution.results import Explanation
    from adapterhub.workflows.run_report.blocks import Block

TITLE = "Why this answer"
#: Words that the table under a text names.
SHOWN_WORDS = 5
_METHODS: Mapping[AttributionMethod, str] = {
    "gradients": "Integrated gradients over the words' embeddings: what each word adds to the "
    "number that is explained, on the way from a text of unknown words to the text.",
    "ablation": "One word at a time: by how much the number that is explained falls when this word "
    "alone is left out. Words that say the same thing twice get little each, since either of them "
    "is enough; so the numbers need not add up.",
}
_COLOURS = (
    "Blue with a solid line is for the answer, orange with a dashed line against it; the strongest "
    "word of a text has the full colour. It says what this adapter reacted to, not whether that "
    "is a good reason."
)
_NO_WORDS = Text("Not explained: answers are explained by words, and a picture has none.")
_NONE_FITS = Text(
    "Not explained: on the validation rows no answer was given (a span, for instance), or none on "
    "a row that is short enough for the time that a report takes. Ask adapterhub explain about a "
    "text that you choose."
)


def why_section(examples: Sequence[ExplainedExample] | None, *, words: bool) -> Section:
    """Return the section, which says why where there are no examples.

    Args:
        examples: explained; ``None`` where explaining them failed.
        words: whether the task reads any.
    """
    if examples is None:
        failed = "The answers could not be explained; the log of the run says why."
        return Section(TITLE, (Text(failed, warning=True),))
    if not examples:
        return Section(TITLE, (_NONE_FITS if words else _NO_WORDS,))
    blocks: list[Block] = [_method(examples[0].found)]
    for each in examples:
        why = f"{each.why[0].upper()}{each.why[1:]}"
        if each.found.probability is None:
            blocks += [Heading(why), Text(f"Explained: {each.found.answer}")]
        else:
            blocks.append(Heading(f"{why}: {answer_text(each.found)}"))
        if each.expected != each.found.answer:
            blocks.append(Text(f"The right answer is {each.expected}."))
        blocks += explanation_blocks(each.found)
    return Section(TITLE, blocks)


def explanation_section(found: Explanation) -> Section:
    """Return one explanation as a section of its own."""
    return Section(answer_text(found), (_method(found), *explanation_blocks(found)))


def _method(found: Explanation) -> Text:
    return Text(f"{_METHODS[found.method]} {_COLOURS}")


def answer_text(found: Explanation) -> str:
    """Return an answer with its probability."""
    sure = "" if found.probability is None else f" ({found.probability:.3f})"
    return f"{' '.join(found.answer.split())}{sure}"


def fidelity_note(found: Explanation) -> str:
    """Return what was explained, against what, and how well the parts add up."""
    unread = f" {found.unread} words were cut off and not read." if found.unread else ""
    explained = f"Explained: {found.quantity}, {found.value:.3f}"
    if found.gap is None or found.baseline_value is None:
        total = sum(word.attribution for word in found.words)
        return f"{explained}. The words' own numbers come to {total:+.3f}.{unread}"
    share = f"{found.gap_share:.1%} of it" if found.value != found.baseline_value else "all of it"
    return (
        f"{explained}; with {found.baseline} for every word {found.baseline_value:.3f}. The words "
        f"add up to the difference but for {found.gap:+.3f} ({share}) after {found.steps} "
        f"steps.{unread}"
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
    blocks.append(Text(fidelity_note(found), warning=found.gap_share > LARGE_GAP))
    return blocks


def _shaded(found: Explanation, name: str) -> list[tuple[str, float | None, str]]:
    return [
        (piece, None, "") if value is None else (piece, value / found.strongest, f"{value:+.3f}")
        for piece, value in found.pieces(name)
    ]
