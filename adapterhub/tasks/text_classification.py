"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from adapterhub.data.packing import Example
from adapterhub.errors import DataError
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.class_loss import ClassLoss
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.limits import check_tokenizer
from adapterhub.tasks.read_once import ReadOnce
from adapterhub.tasks.rows import is_given, place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Head, Row, TaskOptions


class TextClassification(ReadOnce):
    """Rows have ``text``, maybe ``text_pair``, and ``label``: a name or a whole number.

    The head is read once a row: at the first token for an encoder (its class token), at
    the last token for a decoder, the only one that has seen the whole text. Texts longer
    than ``max_length`` lose their end; special tokens stay.
    """

    name: str = "text-classification"
    default_metric: tuple[str, bool] = ("accuracy", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Literal["first", "last"],
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task.

        Args:
            tokenizer: a fast one.
            labels: names in the order of the head's outputs.
            options: settings from the recipe.
            pool: which token of a row the head reads.
            label_counts: how often each label is in the training rows; needed for
                balanced class weights.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together.
        """
        check_tokenizer(tokenizer, options.max_length)
        self.tokenizer = tokenizer
        self.options = options
        self.pool = pool
        self.index = LabelIndex(labels)
        self.labels = self.index.names
        self.criterion = ClassLoss(self.labels, options, label_counts)

    def encode(self, row: Row, number: int, *, train: bool) -> Example:
        """Encode one row; see ``Task.encode``.

        Raises:
            DataError: naming row and field, when the row can't be used.
        """
        encoding = self.tokenizer(
            text_field(row, "text", number),
            self._pair(row, number),
            truncation=True,
            max_length=self.options.max_length,
        )
        ids: list[int] = encoding["input_ids"]
        if not ids:
            raise DataError("the text gives no tokens", place=place_of(number, "text"))
        segments = encoding.get("token_type_ids") or []
        return Example(
            row=number,
            input_ids=ids,
            select=(0 if self.pool == "first" else len(ids) - 1,),
            targets=self._targets(row, number, train),
            segment_ids=segments if any(segments) else (),
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.criterion.total(head(hidden), batch.targets)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of rows, or the summed weight of their classes."""
        return self.criterion.divisor(batch.targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` a row, float32 on the CPU."""
        return list(head(hidden).float().softmax(dim=-1).cpu().unbind())

    def evaluate(self, rows: Sequence[Row], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label.

        Macro-F1 is the mean over the labels that the rows or the predictions have, as
        scikit-learn computes it; the records list every label.

        Raises:
            DataError: when there are no rows, or a row has no known label.
        """
        if not rows:
            raise DataError("there are no rows to score")
        expected = [
            self.index.index(required(row, "label", number), number, "label")
            for number, row in enumerate(rows, start=1)
        ]
        found = [int(scores.argmax()) for scores in decoded]
        return Evaluation(
            metrics={
                "accuracy": float(accuracy_score(expected, found)),
                "macro_f1": float(f1_score(expected, found, average="macro", zero_division=0)),
            },
            table=self._table(expected, found),
        )

    def prediction(self, row: Row, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: probability}}``."""
        values = [float(score) for score in decoded]
        best = int(decoded.argmax())
        return {
            "label": self.labels[best],
            "score": values[best],
            "scores": dict(zip(self.labels, values, strict=True)),
        }

    def _pair(self, row: Row, number: int) -> str | None:
        if not is_given(row, "text_pair"):
            return None
        pair = text_field(row, "text_pair", number)
        # a decoder has no separator of its own: its pairs are two lines
        return pair if self.pool == "first" else f"\n{pair}"

    def _targets(self, row: Row, number: int, train: bool) -> tuple[int, ...]:
        if not train and not is_given(row, "label"):
            return ()
        return (self.index.index(required(row, "label", number), number, "label"),)

    def _table(self, expected: list[int], found: list[int]) -> list[dict[str, float | str]]:
        columns = precision_recall_fscore_support(
            expected, found, labels=range(len(self.labels)), zero_division=0
        )
        return [
            {
                "label": label,
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": float(support),
            }
            for label, precision, recall, f1, support in zip(self.labels, *columns, strict=True)
        ]
