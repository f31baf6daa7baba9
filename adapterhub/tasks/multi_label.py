"""Text classification with any number of labels per text, including none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from adapterhub.data.field_mapping import display_text
from adapterhub.errors import RecipeError
from adapterhub.tasks.base import AuditSpec, Evaluation, Outcome, UnsplitTask
from adapterhub.tasks.classification import LabelIndex, label_list, label_table, require_any
from adapterhub.tasks.fields import is_given, required
from adapterhub.tasks.predictions import Confidence, ErrorExample, nats
from adapterhub.tasks.text_classification import LabelAttribution, TextEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Head, HeadKind, Pool, TaskOptions
    from adapterhub.tasks.fields import Example


class MultiLabelClassification(UnsplitTask):
    """Examples have ``text``, maybe ``text_pair``, and ``label``: a list of names, maybe empty.

    Labels are independent; each is assigned from a probability of ``threshold`` on. Texts are
    encoded as for a single label.
    """

    name: str = "text-classification"
    pipeline_tag: str = "text-classification"
    peft_task_type: str = "SEQ_CLS"
    head: HeadKind = "sequence"
    default_metric: tuple[str, bool] = ("micro_f1", True)
    audit: AuditSpec | None = AuditSpec("labels", "another set of labels")
    generation: None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Pool,
    ) -> None:
        """Set up the task; see ``TextClassification``."""
        if options.class_weights is not None:
            raise RecipeError(
                "class_weights and multi_label exclude each other", place="task.class_weights"
            )
        if options.calibrate or options.temperature != 1.0:
            raise RecipeError(
                "calibrate and temperature are for one label per text, and exclude multi_label",
                place="task.multi_label",
            )
        if options.out_of_scope is not None:
            raise RecipeError(
                "out_of_scope and multi_label exclude each other", place="task.out_of_scope"
            )
        self.texts = TextEncoder(tokenizer, options, pool)
        self.tokenizer = tokenizer
        self.options = options
        self._index = LabelIndex(labels)
        self.labels = self._index.names

    @property
    def attribution(self) -> LabelAttribution:
        """Attribution of the likeliest label to the words of the texts."""
        return LabelAttribution(
            self.name, self.texts, self.labels, self.outcome, self._check, independent=True
        )

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode an example; its targets are 1 for each of its labels and 0 for the others."""
        targets: list[int] = []
        if train or is_given(example, "label"):
            has = self._indices(example, number)
            targets = [int(index in has) for index in range(len(self.labels))]
        return self.texts.encode(example, number, targets)

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
        """Return the probability of each label, ``[classes]`` per example, float32 on the CPU."""
        return list(head(hidden).float().sigmoid().cpu().unbind())

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``micro_f1``, ``macro_f1`` and ``exact_match``, and a record per label.

        ``exact_match`` is the share of examples with exactly their labels. Macro-F1 is the mean
        over all labels, 0 for one that occurs in neither examples nor predictions.
        """
        from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

        require_any(examples)
        pair = self._expected(examples), self._assigned(decoded)
        return Evaluation(
            metrics={
                "micro_f1": float(f1_score(*pair, average="micro", zero_division=0)),
                "macro_f1": float(f1_score(*pair, average="macro", zero_division=0)),
                "exact_match": float(accuracy_score(*pair)),
            },
            table=label_table(self.labels, precision_recall_fscore_support(*pair, zero_division=0)),
        )

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"labels", "scores": {label: probability}}``, likeliest labels first."""
        scores = {name: float(score) for name, score in zip(self.labels, decoded, strict=True)}
        given = [name for name in self.labels if scores[name] >= self.options.threshold]
        return {"labels": sorted(given, key=lambda name: -scores[name]), "scores": scores}

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return the assigned labels with their probabilities."""
        given = (f"{name} {prediction['scores'][name]:.3f}" for name in prediction["labels"])
        return ", ".join(given) or "(none)"

    def outcome(self, decoded: Tensor) -> Outcome:
        """Return the assigned labels and all probabilities."""
        given = (decoded >= self.options.threshold).nonzero().flatten().tolist()
        return Outcome(tuple(given), decoded)

    def confidence(
        self, examples: Sequence[Example], decoded: Sequence[Tensor]
    ) -> Confidence | None:
        """Return a choice for each label of each example: assigned, or not."""
        if not decoded:
            return None
        likely = torch.stack(list(decoded)).double().numpy()
        given = self._assigned(decoded)
        predicted = np.where(given, likely, 1.0 - likely)
        correct = given == self._expected(examples)
        return Confidence("labels of examples", predicted.ravel(), correct.ravel())

    def errors(self, examples: Sequence[Example], decoded: Sequence[Tensor]) -> list[ErrorExample]:
        """Return the examples whose labels are not exactly right."""
        found = []
        for number, (example, likely) in enumerate(zip(examples, decoded, strict=True), start=1):
            has = self._names(example, number)
            given = self.prediction(example, likely)["labels"]
            if set(given) != has:
                error = sum(
                    nats(float(value) if label in has else 1.0 - float(value))
                    for label, value in zip(self.labels, likely, strict=True)
                )
                wanted, named = ", ".join(sorted(has)) or "(none)", ", ".join(given) or "(none)"
                measure = "negative log-likelihood of all labels, in nats"
                found.append(ErrorExample(display_text(example), wanted, named, error, measure))
        return found

    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: an example has several labels."""

    def statistics(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: resamples are evaluated."""

    def _check(self, example: Example, decoded: Tensor) -> tuple[str, bool, float, str]:
        """Compare the likeliest label, the one that is explained, with those of an example."""
        has, best = self._names(example, 1), int(decoded.argmax())
        likely = float(decoded[best])
        given = likely >= self.options.threshold
        right = given == (self.labels[best] in has)
        expected = ", ".join(sorted(has)) or "(none)"
        return expected, right, max(likely, 1 - likely), self.labels[best]

    def _expected(self, examples: Sequence[Example]) -> np.ndarray:
        """Return whether each example has each label, ``[examples, classes]``."""
        expected = np.zeros((len(examples), len(self.labels)), dtype=bool)
        for number, example in enumerate(examples, start=1):
            expected[number - 1, sorted(self._indices(example, number))] = True
        return expected

    def _assigned(self, decoded: Sequence[Tensor]) -> np.ndarray:
        """Return whether each label is assigned, ``[examples, classes]``."""
        assigned: np.ndarray = (torch.stack(list(decoded)) >= self.options.threshold).numpy()
        return assigned

    def _indices(self, example: Example, number: int) -> set[int]:
        names = label_list(required(example, "label", number), number, "label")
        return {self._index.index(name, number, "label") for name in names}

    def _names(self, example: Example, number: int) -> set[str]:
        return {self.labels[index] for index in self._indices(example, number)}
