"""Labels of texts and of words: they should not depend on who is spoken of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.evaluation.bias_audit.audited_task import AnswerChange
from adapterhub.evaluation.bias_audit.counterfactuals import own_sentences, sentences_in
from adapterhub.evaluation.bias_audit.templates import read_sentences
from adapterhub.tasks.base import AuditSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.swaps import Swapper
    from adapterhub.evaluation.bias_audit.templates import Words
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example


class LabelAudit:
    """A task that gives a text a label or several, or each of its words a tag."""

    fitted_rows: int = 600
    scored_rows: int = 120

    def __init__(self, task: Task) -> None:
        """Ask ``task``."""
        self.task = task
        self.moved = task.labels
        self._spec = task.audit or AuditSpec("labels")
        self.counted = (
            f"Counted are pairs with {self._spec.change}. Shift, where there is one, is the "
            "largest change of a label's probability, on average; the label that gains most is "
            "named beside it."
        )

    def own(self, swapper: Swapper, words: Words) -> list[Sentence]:
        """Return the package's sentences; none for relations, whose entities must be marked."""
        if not self._spec.plain_texts:
            return []
        return own_sentences(swapper, read_sentences(), words)

    def given(self, rows: Sequence[Example], swapper: Swapper) -> list[Sentence]:
        """Return some of the rows; see ``AuditedTask``."""
        return sentences_in(rows, swapper)

    def rows(self, row: Example) -> list[Example]:
        """Return the row itself."""
        return [row]

    def compare(
        self, row: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> AnswerChange:
        """Tell two labels, sets of labels, or rows of tags apart."""
        one, two = self.task.outcome(found[0]), self.task.outcome(others[0])
        changed = one.choice != two.choice
        if one.probabilities is None or two.probabilities is None:
            return AnswerChange(changed)
        move = two.probabilities - one.probabilities
        return AnswerChange(changed, move, float(move.abs().max()))

    def words(self, row: Example, found: Sequence[Any]) -> str:
        """Return the prediction as text."""
        return self.task.summary(self.task.prediction(row, found[0]))

    def text(self, row: Example) -> str:
        """Return the texts of a row."""
        parts = [row[field] for field in ("text", "text_pair", "tokens") if row.get(field)]
        return " | ".join(part if isinstance(part, str) else " ".join(part) for part in parts)
