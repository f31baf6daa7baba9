"""Analysis of predictions on labelled examples: confidence, errors, label choices, statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from adapterhub.tasks.fields import Example

Array: TypeAlias = "NDArray[Any]"

#: Probabilities below this are rounding.
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """Choices with their probabilities.

    Args:
        unit: What one choice is made for: ``examples``, ``words``, ``candidates``,
            ``questions``, or ``labels of examples``.
        predicted: Probability of each predicted choice, ``[choices]``.
        correct: Whether each choice is correct, ``[choices]``.
        probabilities: Probability of every alternative, ``[choices, labels]``; ``None`` where
            each label is decided by itself, and where an answer is any part of a text.
        gold: Index of the correct alternative, ``[choices]``; ``None`` without
            ``probabilities``.
    """

    unit: str
    predicted: Array
    correct: Array
    probabilities: Array | None = None
    gold: Array | None = None

    @classmethod
    def of_choices(cls, unit: str, probabilities: Array, gold: Array) -> Confidence:
        """Return the confidence of the likeliest choice, given ``[choices, labels]``."""
        correct = probabilities.argmax(-1) == gold
        return cls(unit, probabilities.max(-1), correct, probabilities, gold)


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """A wrongly predicted example; the larger its error in units of ``measure``, the worse."""

    text: str
    expected: str
    predicted: str
    error: float
    measure: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelChoices:
    """Expected and predicted label of each example or word, as indices ``[choices]``."""

    unit: str
    labels: tuple[str, ...]
    gold: Array
    predicted: Array

    @property
    def correct(self) -> Array:
        """Whether each choice is correct, ``[choices]``."""
        return self.gold == self.predicted

    def confusion(self) -> Array:
        """Return how often each label was predicted for each other, ``[gold, predicted]``.

        It is a table of all pairs of labels, so only for a few labels.
        """
        count = len(self.labels)
        pairs = self.gold * count + self.predicted
        return np.bincount(pairs, minlength=count * count).reshape(count, count)


class Scores(Protocol):
    """Predictions whose metrics can be computed on any selection of their examples."""

    @property
    def size(self) -> int:
        """Number of units that are drawn: examples, or groups of examples."""

    @property
    def max_resamples(self) -> int | None:
        """Most resamples that are computed in reasonable time; ``None`` for no bound."""

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return metric name to values, ``[resamples]``; NaN where a metric is undefined.

        Args:
            indices: Drawn units of each resample, ``[resamples, size]``.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ExampleStatistics:
    """Predictions whose metrics depend on sums of a few numbers per example.

    A thousand resamples are then one matrix product.

    Args:
        values: Numbers of each example, ``[examples, k]``.
        formula: Maps sums ``[..., k]`` to metric name and values ``[...]``.
        meaning: What the numbers mean; only statistics of equal meaning can be permuted.
        max_resamples: See ``Scores``.
    """

    values: Array
    formula: Callable[[Array], dict[str, Array]]
    meaning: tuple[str, ...]
    max_resamples: int | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.values)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return the metrics of each resample; see ``Scores``."""
        counts = np.empty((len(indices), self.size))
        for place, drawn in enumerate(indices):
            counts[place] = np.bincount(drawn, minlength=self.size)
        return self.weighted(counts)

    def weighted(self, weights: Array) -> dict[str, Array]:
        """Return the metrics of weighted examples, given weights ``[resamples, examples]``."""
        return self.formula(weights @ self.values)


def ratio(above: Array, below: Array) -> Array:
    """Return the quotient, 0 where the denominator is 0."""
    result: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result


def nats(probability: float) -> float:
    """Return the negative natural logarithm of a probability."""
    return -math.log(max(probability, _SMALLEST))


def window_groups(examples: Sequence[Example]) -> list[list[int]]:
    """Return the positions of the windows of each example; the first window has number 0."""
    groups: list[list[int]] = []
    for place, example in enumerate(examples):
        if example.get("window") and groups:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
