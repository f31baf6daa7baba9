"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sklearn.metrics import accuracy_score, recall_score

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.class_loss import ClassLoss
from adapterhub.tasks.class_scores import class_prediction, score_classes
from adapterhub.tasks.fields import is_given, place_of, required, text_field
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.limits import check_temperature, check_tokenizer
from adapterhub.tasks.read_once import ReadOnce

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Evaluation, Example, Head, TaskOptions


class TextClassification(ReadOnce):
    """Examples have ``text``, maybe ``text_pair``, and ``label``: a name or a whole number.

    The head is read once an example: at the first token for an encoder (its class token), at
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
            pool: which token of an example the head reads.
            label_counts: how often each label is in the training examples; needed for
                balanced class weights.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together.
        """
        check_tokenizer(tokenizer, options.max_length)
        check_temperature(options.temperature)
        self.tokenizer = tokenizer
        self.options = options
        self.pool = pool
        self.index = LabelIndex(labels)
        self.labels = self.index.names
        #: output of the label of texts that no other label fits, where there is one
        self.out_of_scope = self._out_of_scope()
        self.criterion = ClassLoss(self.labels, options, label_counts)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode one example; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        encoding = self.read(example, number)
        ids: list[int] = encoding["input_ids"]
        if not ids:
            raise DataError("the text gives no tokens", place=place_of(number, "text"))
        segments = encoding.get("token_type_ids") or []
        return EncodedExample(
            number=number,
            input_ids=ids,
            select=(0 if self.pool == "first" else len(ids) - 1,),
            targets=self._targets(example, number, train),
            segment_ids=segments if any(segments) else (),
        )

    def read(self, example: Example, number: int, *, offsets: bool = False) -> BatchEncoding:
        """Return the tokens of an example's text, and of its pair where it has one.

        Args:
            example: keyed by the task's field names.
            number: of the example in its source, from 1.
            offsets: tell where the tokens stand, in the texts as ``pair`` changes them.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        return self.tokenizer(
            text_field(example, "text", number),
            self.pair(example, number),
            truncation=True,
            max_length=self.options.max_length,
            return_offsets_mapping=offsets,
        )

    def pair(self, example: Example, number: int) -> str | None:
        """Return the second text of an example as the backbone reads it, where there is one.

        Raises:
            DataError: when it is no text.
        """
        if not is_given(example, "text_pair"):
            return None
        pair = text_field(example, "text_pair", number)
        # a decoder has no separator of its own: its pairs are two lines
        return pair if self.pool == "first" else f"\n{pair}"

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.criterion.total(head(hidden), batch.targets)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples, or the summed weight of their classes."""
        return self.criterion.divisor(batch.targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` an example, float32 on the CPU."""
        logits = head(hidden).float() / self.options.temperature
        return list(logits.softmax(dim=-1).cpu().unbind())

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label; see ``score_classes``.

        With ``out_of_scope`` there are the accuracy on examples of the other labels and the recall of
        its own, 0 where no example is one. Source: Larson et al. 2019, "An Evaluation Dataset for
        Intent Classification and Out-of-Scope Prediction", arXiv:1909.02027.

        Raises:
            DataError: when there are no examples, or an example has no known label.
        """
        scored = score_classes(self.index, examples, decoded)
        return replace(scored, metrics={**scored.metrics, **self._scope_metrics(examples, decoded)})

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: probability}}``."""
        return class_prediction(self.labels, decoded)

    def _targets(self, example: Example, number: int, train: bool) -> tuple[int, ...]:
        if not train and not is_given(example, "label"):
            return ()
        return (self.index.index(required(example, "label", number), number, "label"),)

    def _out_of_scope(self) -> int | None:
        label = self.options.out_of_scope
        if label is None:
            return None
        if label not in self.labels:
            raise RecipeError(
                f"no training example has the label {label!r}",
                place="task.out_of_scope",
                hint=did_you_mean(label, self.labels),
            )
        return self.labels.index(label)

    def _scope_metrics(
        self, examples: Sequence[Example], decoded: Sequence[Any]
    ) -> dict[str, float]:
        outside = self.out_of_scope
        if outside is None:
            return {}
        expected = [
            self.index.index(required(example, "label", number), number, "label")
            for number, example in enumerate(examples, start=1)
        ]
        found = [int(scores.argmax()) for scores in decoded]
        inside = [pair for pair in zip(expected, found, strict=True) if pair[0] != outside]
        accuracy = accuracy_score(*zip(*inside, strict=True)) if inside else 0.0
        recall = recall_score(expected, found, labels=[outside], average="macro", zero_division=0)
        return {"in_scope_accuracy": float(accuracy), "out_of_scope_recall": float(recall)}
