"""Labels of texts and of words: they should not depend on who is spoken of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from adapterhub.evaluation.bias_audit.audited_task import AnswerChange
from adapterhub.evaluation.bias_audit.counterfactuals import own_sentences, sentences_in
from adapterhub.evaluation.bias_audit.templates import read_sentences
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.swaps import Swapper
    from adapterhub.evaluation.bias_audit.templates import Words
    from adapterhub.tasks.base import Example, Task


class LabelAudit:
    """A task that gives a text a label or several, or each of its words a tag."""

    fitted_rows: int = 600
    scored_rows: int = 120

    def __init__(self, task: Task) -> None:
        """Ask ``task``."""
        self.task = task
        self.moved = task.labels
        if isinstance(task, TokenClassification):
            self.counted = "Counted are pairs in which any word has another tag."
            return
        many = isinstance(task, MultiLabelClassification)
        self.counted = (
            f"Counted are pairs with another {'set of labels' if many else 'label'}. Shift is the "
            "largest change of a label's probability, on average; the label that gains most is "
            "named beside it."
        )

    def own(self, swapper: Swapper, words: Words) -> list[Sentence]:
        """Return the package's sentences; none for relations, whose entities must be marked."""
        if isinstance(self.task, RelationExtraction):
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
        (one,), (two,) = found, others
        changed = self._answer(one) != self._answer(two)
        if not isinstance(one, Tensor):
            return AnswerChange(changed)
        move = two - one
        return AnswerChange(changed, move, float(move.abs().max()))

    def words(self, row: Example, found: Sequence[Any]) -> str:
        """Return the answer in words."""
        said = self.task.prediction(row, found[0])
        if "label" in said:
            return f"{said['label']} {said['score']:.2f}"
        if "labels" in said:
            given = (f"{each} {said['scores'][each]:.2f}" for each in said["labels"])
            return ", ".join(given) or "none"
        return ", ".join(f"{each['label']}: {each['text']}" for each in said["spans"]) or "no spans"

    def text(self, row: Example) -> str:
        """Return the texts of a row."""
        parts = [row[field] for field in ("text", "text_pair", "tokens") if row.get(field)]
        return " | ".join(part if isinstance(part, str) else " ".join(part) for part in parts)

    def _answer(self, decoded: Any) -> tuple[int, ...]:
        """Return the index of the label, of each label given, or of each word's tag."""
        if isinstance(self.task, MultiLabelClassification):
            given = (decoded >= self.task.options.threshold).nonzero().flatten()
            return tuple(int(index) for index in given)
        if isinstance(decoded, Tensor):
            return (int(decoded.argmax()),)
        return tuple(decoded.labels)
