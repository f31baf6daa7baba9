"""Ranking for recommendation: how likely does a candidate please who has this history?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.fields import is_given, place_of, required, text_field
from adapterhub.tasks.labels import label_text
from adapterhub.tasks.ranking_scores import ranking_scores
from adapterhub.tasks.read_once import ReadOnce
from adapterhub.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Example, Head, TaskOptions


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of candidates.

    Args:
        labels: 1 for each that pleased, 0 for others.
        gains: worth of each.
        groups: name of the group of each, empty where it has none.
    """

    labels: Sequence[int]
    gains: Sequence[float]
    groups: Sequence[str]


class Ranking(ReadOnce):
    """Examples have ``history``, ``candidate`` and ``label``: 1 where it pleased, 0 where not.

    History and candidate are read as a pair of texts; a history may be a list of texts, the
    newest last, which loses its oldest where a pair is longer than ``max_length``. Examples of one
    ``group`` (a user, a request) are ranked among each other in scoring, and ``gain`` says how
    much a candidate is worth there (a rating); without it the label does.
    """

    name: str = "ranking"
    default_metric: tuple[str, bool] = ("auc", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Literal["first", "last"],
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task; see ``TextClassification``.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together, or the labels
                are not 0 and 1.
        """
        if list(labels) != ["0", "1"]:
            raise RecipeError(
                f"the labels must be 0 and 1, not {', '.join(labels[:5])}",
                place="data.fields.label",
                hint="Give 1 to examples that pleased or were clicked, 0 to others",
            )
        self.texts = TextClassification(
            tokenizer, labels, options, pool=pool, label_counts=label_counts
        )
        self.tokenizer = tokenizer
        self.options = options
        self.labels = self.texts.labels

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode one example; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        pair = self.as_pair(example, number)
        if is_given(example, "label"):
            pair["label"] = label_text(example["label"], number, "label")
        return self.texts.encode(pair, number, train=train)

    def as_pair(self, example: Example, number: int) -> dict[str, str]:
        """Return history and candidate as the backbone reads them, ``{"text", "text_pair"}``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        candidate = text_field(example, "candidate", number)
        return {"text": self._history(example, number, candidate), "text_pair": candidate}

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.texts.loss(head, hidden, batch)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples, or the summed weight of their classes."""
        return self.texts.weight(batch)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[float]:
        """Return the probability that each candidate pleases."""
        return [float(chances[1]) for chances in self.texts.decode(head, hidden, batch)]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``auc`` over all examples, and ``ndcg_at_10`` over groups; see ``ranking_scores``.

        Raises:
            DataError: when there are no examples, an example has no label, or all have the same.
        """
        judged = self.judged(examples)
        scores = ranking_scores(judged.labels, judged.gains, judged.groups, decoded)
        return Evaluation(metrics=scores)

    def judged(self, examples: Sequence[Example]) -> Judged:
        """Return what is known of examples, for scoring.

        Raises:
            DataError: when an example has no known label, or a gain that is none.
        """
        labels = [
            self.texts.index.index(required(example, "label", number), number, "label")
            for number, example in enumerate(examples, start=1)
        ]
        pairs = zip(examples, labels, strict=True)
        gains = [
            _gain(example, number, label) for number, (example, label) in enumerate(pairs, start=1)
        ]
        groups = [
            str(example["group"]) if is_given(example, "group") else "" for example in examples
        ]
        return Judged(labels, gains, groups)

    def prediction(self, example: Example, decoded: float) -> dict[str, Any]:
        """Return ``{"score"}``, the probability that the candidate pleases."""
        return {"score": decoded}

    def _history(self, example: Example, number: int, candidate: str) -> str:
        """Return the newest of the history that fits beside the candidate."""
        value = required(example, "history", number)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(each, str) for each in items):
            raise DataError(
                "a history must be a text or a list of texts", place=place_of(number, "history")
            )
        if not any(item.strip() for item in items):
            # someone new: nothing is known
            return "-"
        first = 0
        while first < len(items) - 1 and not self._fits("; ".join(items[first:]), candidate):
            first += 1
        return "; ".join(items[first:])

    def _fits(self, history: str, candidate: str) -> bool:
        # a decoder's pair has a line end between its texts
        ids = self.tokenizer(history, f"\n{candidate}", verbose=False)["input_ids"]
        return len(ids) <= self.options.max_length


def _gain(example: Example, number: int, label: int) -> float:
    value = example.get("gain")
    if value is None:
        return float(label)
    number_given = isinstance(value, int | float) and not isinstance(value, bool)
    if not number_given or not 0 <= value < math.inf:
        raise DataError(
            f"a gain must be a number of at least 0, not {value!r}", place=place_of(number, "gain")
        )
    return float(value)
