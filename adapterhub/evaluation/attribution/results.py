"""An explained answer, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.evaluation.attribution.methods import Attribution, AttributionMethod
    from adapterhub.tasks.attribution import AttributionInput, Target

#: Share of the difference that the attributions may miss before people are told to take more
#: steps. Source: the paper of integrated gradients, section 5: within 5 %.
LARGE_GAP = 0.05


@dataclass(frozen=True, slots=True)
class ExplainedWord:
    """A word and what it did.

    Args:
        text: name of the text that it stands in.
        word: itself.
        start: its first character in that text.
        end: one past its last.
        attribution: by how much it moved the number; above 0 for the answer, below against it.
    """

    text: str
    word: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one answer was given.

    Args:
        answer: in words.
        probability: of the answer, where it has one.
        quantity: what the number is that was explained.
        value: of the number.
        baseline_value: of the number when every word is unknown; ``None`` where words were left
            out.
        baseline: the token that stands for an unknown word; empty where words were left out.
        method: by which the words' numbers were found; see ``attribute``.
        steps: points of the path from there to the text; 0 where none was taken.
        gap: by how much the attributions miss ``value - baseline_value``; ``None`` where they
            need not add up.
        texts: name to text, as the backbone reads it.
        words: of all texts, in order.
        unread: words that were cut off, and have no attribution.
        start: first character of an answer that is part of the last text.
        end: one past its last.
    """

    answer: str
    probability: float | None
    quantity: str
    value: float
    baseline_value: float | None
    baseline: str
    method: AttributionMethod
    steps: int
    gap: float | None
    texts: Mapping[str, str]
    words: Sequence[ExplainedWord]
    unread: int
    start: int | None = None
    end: int | None = None

    @property
    def gap_share(self) -> float:
        """The gap as a share of the difference that is explained; infinite where there is none.

        It is 0 where nothing has to add up.
        """
        if self.gap is None or self.baseline_value is None:
            return 0.0
        difference = abs(self.value - self.baseline_value)
        return abs(self.gap) / difference if difference else float("inf")

    @property
    def strongest(self) -> float:
        """Size of the largest attribution, and of 1 where all are 0."""
        return max((abs(word.attribution) for word in self.words), default=0.0) or 1.0

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        names = ("answer", "probability", "quantity", "value", "baseline_value", "baseline")
        later = ("method", "steps", "gap", "unread", "start", "end")
        return {
            **{name: getattr(self, name) for name in (*names, *later)},
            "texts": dict(self.texts),
            "words": [
                {
                    "text": each.text,
                    "word": each.word,
                    "start": each.start,
                    "end": each.end,
                    "attribution": each.attribution,
                }
                for each in self.words
            ],
        }

    def pieces(self, name: str) -> Iterator[tuple[str, float | None]]:
        """Yield a text piece by piece: its words with their attributions, the rest without."""
        text, end = self.texts[name], 0
        for word in self.words:
            if word.text == name:
                if word.start > end:
                    yield text[end : word.start], None
                yield text[word.start : word.end], word.attribution
                end = word.end
        if end < len(text):
            yield text[end:], None


def explanation(reading: AttributionInput, target: Target, found: Attribution) -> Explanation:
    """Return an explanation made of what was read, what was asked and what was found."""
    names = _names([text.name for text in reading.texts])
    named = zip(names, reading.texts, strict=True)
    placed = [(name, word) for name, text in named for word in text.words]
    return Explanation(
        answer=target.answer,
        probability=target.probability,
        quantity=target.quantity,
        value=found.value,
        baseline_value=found.baseline_value,
        baseline=found.baseline,
        method=found.method,
        steps=found.steps,
        gap=found.gap,
        texts={name: text.text for name, text in zip(names, reading.texts, strict=True)},
        words=[
            ExplainedWord(name, word.text, word.start, word.end, share)
            for (name, word), share in zip(placed, found.words, strict=True)
        ],
        unread=reading.unread,
        start=target.start,
        end=target.end,
    )


def _names(names: Sequence[str]) -> list[str]:
    """Return names that differ: a second message of the user is ``user 2``."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found
