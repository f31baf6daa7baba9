"""Report section on explained predictions: attributions of the words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.attribution.explain import LARGE_GAP
from adapterhub.workflows.run_report.blocks import Heading, Section, ShadedText, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.evaluation.attribution.examples import ExplainedExample
    from adapterhub.evaluation.attribution.explain import Explanation
    from adapterhub.evaluation.attribution.methods import AttributionMethod
    from adapterhub.workflows.run_report.blocks import Block

TITLE = "Explanations"
#: Words listed in the table under a text.
SHOWN_WORDS = 5
_METHODS: Mapping[AttributionMethod, str] = {
    "gradients": "Integrated gradients over word embeddings: the contribution of each word to the "
    "explained value, along the path from a text of unknown words to the actual text.",
    "ablation": "Leave-one-out: how much the explained value falls when one word is removed. Words "
    "that repeat each other's information get small attributions, since either of them is enough, "
    "so the attributions need not add up.",
}
_COLOURS = (
    "Blue with a solid line supports the prediction, orange with a dashed line opposes it; the "
    "strongest word of a text has the full colour. Attributions show what this adapter reacted to, "
    "not whether that is a good reason."
)
_SILENCE = (
    "Silence: how much the explained value falls when one part of the recording is silent. Parts "
    "that repeat each other's information get small attributions, since either of them is enough, "
    "so the attributions need not add up."
)
_NO_TEXT = Text("Not explained: this task has no attribution to words or to parts of a recording.")
_NONE_FITS = Text(
    "Not explained: no validation example has a prediction to explain (a span, for instance) and "
    "is short enough for the time limit of a report. Explain a text of your choice with adapterhub "
    "explain."
)


def explanations_section(examples: Sequence[ExplainedExample] | None, *, explains: bool) -> Section:
    """Return the section; without examples, or where explaining failed, it states the reason."""
    if examples is None:
        failed = "The predictions could not be explained; see the log of the run."
        return Section(TITLE, (Text(failed, warning=True),))
    if not examples:
        return Section(TITLE, (_NONE_FITS if explains else _NO_TEXT,))
    blocks: list[Block] = [_method(examples[0].found)]
    for each in examples:
        why = f"{each.why[0].upper()}{each.why[1:]}"
        if each.found.probability is None:
            blocks += [Heading(why), Text(f"Explained: {each.found.answer}")]
        else:
            blocks.append(Heading(f"{why}: {answer_text(each.found)}"))
        if each.expected != each.found.answer:
            blocks.append(Text(f"Actual: {each.expected}"))
        blocks += _explanation(each.found)
    return Section(TITLE, blocks)


def explanation_section(found: Explanation) -> Section:
    """Return one explanation as a section of its own."""
    return Section(answer_text(found), (_method(found), *_explanation(found)))


def answer_text(found: Explanation) -> str:
    """Return the explained answer with its probability."""
    probability = "" if found.probability is None else f" ({found.probability:.3f})"
    return f"{' '.join(found.answer.split())}{probability}"


def fidelity_note(found: Explanation) -> str:
    """Return the explained value, its baseline, and how well the attributions add up."""
    unread = f" {found.unread} {found.unit}s were truncated." if found.unread else ""
    explained = f"Explained: {found.quantity}, {found.value:.3f}"
    if found.gap is None or found.baseline_value is None:
        total = sum(word.attribution for word in found.words)
        return f"{explained}. The attributions sum to {total:+.3f}.{unread}"
    share = f"{found.gap_share:.1%} of it" if found.value != found.baseline_value else "all of it"
    return (
        f"{explained}; with {found.baseline} for every word {found.baseline_value:.3f}. The "
        f"attributions sum to the difference up to a gap of {found.gap:+.3f} ({share}) after "
        f"{found.steps} steps.{unread}"
    )


def _method(found: Explanation) -> Text:
    method = _SILENCE if found.unit == "part" else _METHODS[found.method]
    return Text(f"{method} {_COLOURS.replace('word', found.unit)}")


def _explanation(found: Explanation) -> list[Block]:
    """Return the texts with shaded words, the strongest words, and the fidelity note."""
    named = len(found.texts) > 1
    blocks: list[Block] = [
        ShadedText(name if named else "", _shaded(found, name)) for name in found.texts
    ]
    strongest = sorted(found.words, key=lambda word: -abs(word.attribution))[:SHOWN_WORDS]
    rows = [(word.word, f"{word.attribution:+.3f}") for word in strongest if word.attribution]
    blocks.append(Table((f"strongest {found.unit}s", ">attribution"), rows))
    blocks.append(Text(fidelity_note(found), warning=found.gap_share > LARGE_GAP))
    return blocks


def _shaded(found: Explanation, name: str) -> list[tuple[str, float | None, str]]:
    largest = found.max_attribution
    return [
        (text, None, "") if value is None else (text, value / largest, f"{value:+.3f}")
        for text, value in found.segments(name)
    ]
