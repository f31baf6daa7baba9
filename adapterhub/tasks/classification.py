"""Class labels: names, targets, weighted loss, metrics and analysis of predictions.

Shared by composition by every task whose head chooses among labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch.nn import functional as F

from adapterhub.data.field_mapping import display_text
from adapterhub.data.labels import is_whole_number, label_name, require_two_labels
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.base import Evaluation, Outcome, UnsplitTask
from adapterhub.tasks.fields import is_given, place_of, required
from adapterhub.tasks.label_statistics import label_statistics
from adapterhub.tasks.predictions import (
    Confidence,
    ErrorExample,
    LabelChoices,
    nats,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Head, Pool, TaskOptions
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Scores


class LabelIndex:
    """Label names in the order of the head's outputs."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Index two or more different label names."""
        self.names = tuple(labels)
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise RecipeError(f"the label {twice!r} is listed twice", place="labels")
        require_two_labels(self.names)
        self._numbered = any(is_whole_number(name) for name in self.names)

    def name(self, value: Any, number: int, field: str) -> str:
        """Return the label name for a value of an example.

        An integer is the label written with it, or, where no label is written as an integer,
        the position of the label.
        """
        text = label_text(value, number, field)
        if text not in self._index and not self._numbered and not isinstance(value, str):
            place = int(value)
            if 0 <= place < len(self.names):
                return self.names[place]
        return text

    def index(self, value: Any, number: int, field: str) -> int:
        """Return the index of a training label, given as a value of an example."""
        name = self.name(value, number, field)
        if name not in self._index:
            raise DataError(
                f"the label {name!r} is not among the {len(self.names)} training labels",
                place=place_of(number, field),
                hint=did_you_mean(name, self.names),
            )
        return self._index[name]


class ClassLabels:
    """Labels of which one is chosen: targets, loss and probabilities."""

    def __init__(
        self,
        labels: Sequence[str],
        options: TaskOptions,
        counts: Mapping[str, int] | None,
        *,
        field: str = "label",
    ) -> None:
        """Index the labels and compute their loss weights; balanced ones need ``counts``."""
        self.index = LabelIndex(labels)
        self.names = self.index.names
        self._field = field
        self._smoothing = options.label_smoothing
        self._temperature = options.temperature
        values = class_weight_values(self.names, options.class_weights, counts)
        # [classes] float32, or None
        self._weights = None if values is None else torch.tensor(values)

    def targets(self, example: Example, number: int, *, train: bool) -> tuple[int, ...]:
        """Return the label index of an example; empty where it is optional and missing."""
        if not train and not is_given(example, self._field):
            return ()
        return (self.gold(example, number),)

    def gold(self, example: Example, number: int) -> int:
        """Return the label index of an example, which must have a known label."""
        value = required(example, self._field, number)
        return self.index.index(value, number, self._field)

    def all_gold(self, examples: Sequence[Example]) -> list[int]:
        """Return the label index of each example."""
        return [self.gold(example, number) for number, example in enumerate(examples, start=1)]

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a float32 scalar.

        ``loss / weight`` over any set of batches equals
        ``torch.nn.functional.cross_entropy(..., reduction="mean")`` over all their targets:
        torch divides by the summed weights of the target classes, also with label smoothing.
        Source: ``cross_entropy_loss_label_smoothing`` in ATen's ``LossNLL.cpp``.
        """
        return F.cross_entropy(
            head(hidden).float(),
            batch.targets,
            weight=None if self._weights is None else self._weights.to(hidden.device),
            reduction="sum",
            label_smoothing=self._smoothing,
        )

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of targets, or the summed weight of their classes."""
        if self._weights is None:
            return float(batch.targets.numel())
        return float(self._weights[batch.targets.cpu()].sum())

    def probabilities(self, head: Head, hidden: Tensor) -> Tensor:
        """Return the probability of each label, ``[selected, classes]`` float32 on the CPU."""
        return (head(hidden).float() / self._temperature).softmax(dim=-1).cpu()


class ClassTask(UnsplitTask, ABC):
    """Base of tasks that choose one label by a head that is read once per example."""

    generation: None = None

    def __init__(
        self,
        preprocessor: Any,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Pool = "last",
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task.

        Args:
            preprocessor: Fast tokenizer or image processor of the backbone.
            labels: Names in the order of the head's outputs.
            options: Settings from the recipe.
            pool: Token that the head is read at.
            label_counts: Frequency of each label in the training data; needed for balanced class
                weights.

        Raises:
            RecipeError: when labels, options and preprocessor do not fit together.
        """
        self.classes = ClassLabels(labels, options, label_counts)
        self.labels = self.classes.names
        self.options = options
        self._set_up(preprocessor, pool)

    @abstractmethod
    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        """Set up the encoding of examples, and check the labels and options of this task."""

    @final
    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.classes.loss(head, hidden, batch)

    @final
    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples, or the summed weight of their classes."""
        return self.classes.weight(batch)


class SingleLabelTask(ClassTask, ABC):
    """Base of tasks whose prediction is the likeliest label."""

    @final
    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` per example, on the CPU."""
        return list(self.classes.probabilities(head, hidden).unbind())

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label.

        Macro-F1 is the mean over the labels that occur in examples or predictions, as in
        scikit-learn; the records list every label.
        """
        from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

        require_any(examples)
        pair = self.classes.all_gold(examples), predicted_labels(decoded)
        columns = precision_recall_fscore_support(
            *pair, labels=range(len(self.labels)), zero_division=0
        )
        macro_f1 = f1_score(*pair, average="macro", zero_division=0)
        return Evaluation(
            metrics={"accuracy": float(accuracy_score(*pair)), "macro_f1": float(macro_f1)},
            table=label_table(self.labels, columns),
        )

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: probability}}``."""
        values = decoded.tolist()
        best = int(decoded.argmax())
        scores = dict(zip(self.labels, values, strict=True))
        return {"label": self.labels[best], "score": values[best], "scores": scores}

    @final
    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return label and probability."""
        return f"{prediction['label']} {prediction['score']:.3f}"

    @final
    def outcome(self, decoded: Tensor) -> Outcome:
        """Return the likeliest label and all probabilities."""
        return Outcome((int(decoded.argmax()),), decoded)

    @final
    def confidence(
        self, examples: Sequence[Example], decoded: Sequence[Tensor]
    ) -> Confidence | None:
        """Return the confidence of each example's label; ``None`` without examples."""
        if not decoded:
            return None
        table = torch.stack(list(decoded)).double().numpy()
        return Confidence.of_choices("examples", table, np.array(self.classes.all_gold(examples)))

    @final
    def errors(self, examples: Sequence[Example], decoded: Sequence[Tensor]) -> list[ErrorExample]:
        """Return the examples with a wrong label, with the negative log-likelihood of theirs."""
        found = []
        triples = zip(examples, self.classes.all_gold(examples), decoded, strict=True)
        for example, gold, scores in triples:
            best = int(scores.argmax())
            if best != gold:
                answer = f"{self.labels[best]} ({float(scores[best]):.2f})"
                shown, error = display_text(example), nats(float(scores[gold]))
                found.append(ErrorExample(shown, self.labels[gold], answer, error, LABEL_ERROR))
        return found

    @final
    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Tensor]) -> LabelChoices:
        """Return expected and predicted label of each example."""
        gold, found = self.classes.all_gold(examples), predicted_labels(decoded)
        return LabelChoices("examples", self.labels, np.array(gold), np.array(found))

    def statistics(self, examples: Sequence[Example], decoded: Sequence[Tensor]) -> Scores | None:
        """Return expected and predicted label of each example."""
        return label_statistics(self.label_choices(examples, decoded))


#: Measure of ``ErrorExample`` where one label is chosen.
LABEL_ERROR = "negative log-likelihood of the label, in nats"


def predicted_labels(decoded: Sequence[Tensor]) -> list[int]:
    """Return the index of the likeliest label of each example."""
    return [int(scores.argmax()) for scores in decoded]


def require_any(examples: Sequence[Example]) -> None:
    """Require at least one example to score."""
    if not examples:
        raise DataError("there are no examples to score")


def label_table(
    labels: Iterable[str], columns: Sequence[Iterable[float]]
) -> list[dict[str, float | str]]:
    """Return a record per label, given precision, recall, F1 and support as in scikit-learn."""
    names = ("precision", "recall", "f1", "support")
    return [
        {"label": label, **{name: float(v) for name, v in zip(names, values, strict=True)}}
        for label, *values in zip(labels, *columns, strict=True)
    ]


def label_text(value: Any, number: int, field: str) -> str:
    """Return an example's label as text; see ``adapterhub.data.labels.label_name``."""
    return label_name(value, place_of(number, field))


def label_list(value: Any, number: int, field: str) -> list[Any]:
    """Return an example's labels, of which none may be repeated; a single label makes a list."""
    labels = list(value) if isinstance(value, list | tuple) else [value]
    names = [label_text(label, number, field) for label in labels]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the label {twice!r} is listed twice", place=place_of(number, field))
    return labels


def class_weight_values(
    labels: Sequence[str],
    setting: str | Mapping[str, float] | None,
    counts: Mapping[str, int] | None,
) -> list[float] | None:
    """Return a loss weight for each label; ``None`` for equal weights.

    Args:
        labels: Names in the order of the head's outputs.
        setting: ``None``; ``"balanced"`` for ``n / (classes * n_label)``, as scikit-learn's
            ``compute_class_weight``; or a weight per label name, 1 for missing ones.
        counts: Frequency of each label in the training data.

    Raises:
        RecipeError: when the setting does not fit the labels.
    """
    if setting is None:
        return None
    if isinstance(setting, str):
        return _balanced(labels, counts)
    for name in setting:
        if name not in labels:
            raise RecipeError(
                f"there is no label {name!r}",
                place="task.class_weights",
                hint=did_you_mean(name, labels),
            )
    return [float(setting.get(name, 1.0)) for name in labels]


def _balanced(labels: Sequence[str], counts: Mapping[str, int] | None) -> list[float]:
    place = "task.class_weights"
    if counts is None:
        raise RecipeError(
            "balanced weights need the label counts of the training examples", place=place
        )
    unseen = [name for name in labels if not counts.get(name)]
    if unseen:
        raise RecipeError(
            f"the label {unseen[0]!r} has no training example to balance by",
            place=place,
            hint="Give a weight per label instead",
        )
    total = sum(counts[name] for name in labels)
    return [total / (len(labels) * counts[name]) for name in labels]
