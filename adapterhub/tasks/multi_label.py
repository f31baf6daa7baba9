"""Text classification with any number of labels for a text, none included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from torch.nn import functional as F

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.fields import is_given, required
from adapterhub.tasks.labels import label_list
from adapterhub.tasks.read_once import ReadOnce
from adapterhub.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Example, Head, TaskOptions


class MultiLabelClassification(ReadOnce):
    """Examples have ``text``, maybe ``text_pair``, and ``label``: a list of names, maybe empty.

    Each label is a question of its own, answered yes where its probability is ``threshold``
    or more. The head is read as in text classification with one label.
    """

    name: str = "text-classification"
    default_metric: tuple[str, bool] = ("micro_f1", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Literal["first", "last"],
    ) -> None:
        """Set up the task; see ``TextClassification``.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together.
        """
        if options.class_weights is not None:
            raise RecipeError(
                "class_weights and multi_label exclude each other", place="task.class_weights"
            )
        if options.calibrate or options.temperature != 1.0:
            raise RecipeError(
                "calibrate and temperature are for one label a text, and exclude multi_label",
                place="task.multi_label",
            )
        if options.out_of_scope is not None:
            raise RecipeError(
                "out_of_scope and multi_label exclude each other", place="task.out_of_scope"
            )
        self.texts = TextClassification(tokenizer, labels, options, pool=pool)
        self.tokenizer = tokenizer
        self.options = options
        self.labels = self.texts.labels

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode one example; its targets are 1 for each label that it has and 0 for each other.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        targets: list[int] = []
        if train or is_given(example, "label"):
            has = self.indices(example, number)
            targets = [int(index in has) for index in range(len(self.labels))]
        unlabelled = {field: value for field, value in example.items() if field != "label"}
        return replace(self.texts.encode(unlabelled, number, train=False), targets=targets)

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the binary cross entropy summed over examples and labels, a scalar."""
        logits = head(hidden).float()
        smoothing = self.options.label_smoothing
        wanted = batch.targets.view_as(logits).float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples times the number of labels."""
        return float(len(batch.numbers) * len(self.labels))

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` an example, float32 on the CPU."""
        return list(head(hidden).float().sigmoid().cpu().unbind())

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``micro_f1``, ``macro_f1`` and ``exact_match``, and a record per label.

        ``exact_match`` is the share of examples whose labels are all right and no other is given.
        Macro-F1 is the mean over all labels, 0 for one that neither examples nor predictions have.

        Raises:
            DataError: when there are no examples, or an example has no known labels.
        """
        if not examples:
            raise DataError("there are no examples to score")
        expected = torch.zeros(len(examples), len(self.labels), dtype=torch.int64)
        for number, example in enumerate(examples, start=1):
            expected[number - 1, sorted(self.indices(example, number))] = 1
        found = (torch.stack(list(decoded)) >= self.options.threshold).long()
        pair = expected.numpy(), found.numpy()
        return Evaluation(
            metrics={
                "micro_f1": float(f1_score(*pair, average="micro", zero_division=0)),
                "macro_f1": float(f1_score(*pair, average="macro", zero_division=0)),
                "exact_match": float(accuracy_score(*pair)),
            },
            table=self._table(*precision_recall_fscore_support(*pair, zero_division=0)),
        )

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"labels", "scores": {label: probability}}``, likeliest labels first."""
        scores = {name: float(score) for name, score in zip(self.labels, decoded, strict=True)}
        given = [name for name in self.labels if scores[name] >= self.options.threshold]
        return {"labels": sorted(given, key=lambda name: -scores[name]), "scores": scores}

    def indices(self, example: Example, number: int) -> set[int]:
        """Return the place of each of an example's labels.

        Raises:
            DataError: naming example and field, when one is no known label.
        """
        names = label_list(required(example, "label", number), number, "label")
        return {self.texts.index.index(name, number, "label") for name in names}

    def _table(self, *columns: Any) -> list[dict[str, float | str]]:
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
