"""Metrics of one chosen label per example on any selection of the examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adapterhub.tasks.predictions import ExampleStatistics, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.tasks.predictions import Array, LabelChoices, Scores

#: Labels, and labels times examples, up to which sums over examples are one matrix product.
_MAX_LABELS, _MAX_VALUES = 1000, 4_000_000


def label_statistics(choices: LabelChoices, out_of_scope: int | None = None) -> Scores:
    """Return accuracy and macro-F1 of choices for resampling, in bounded memory.

    Args:
        choices: Expected and predicted label of each example.
        out_of_scope: Label of texts that no other label fits, whose recall is separate.
    """
    labels, size = len(choices.labels), len(choices.gold)
    if labels > _MAX_LABELS or labels * size > _MAX_VALUES:
        return CountedLabels(choices, out_of_scope)
    values = np.zeros((size, 3, labels))
    place = np.arange(size)
    values[place, 0, choices.gold] = choices.correct
    values[place, 1, choices.gold] = 1.0
    values[place, 2, choices.predicted] = 1.0
    formula = partial(_metrics, out_of_scope=out_of_scope)
    return ExampleStatistics(values.reshape(size, -1), formula, choices.labels)


@dataclass(frozen=True, slots=True, eq=False)
class CountedLabels:
    """Choices among many labels, counted anew for each resample; see ``Scores``.

    The memory is that of the labels and of the examples, not of their product.
    """

    choices: LabelChoices
    out_of_scope: int | None = None
    max_resamples: int | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.choices.gold)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return the metrics of each resample; see ``Scores``."""
        # labels that no example has change no metric
        kept = [] if self.out_of_scope is None else [self.out_of_scope]
        both = np.concatenate([self.choices.gold, self.choices.predicted, kept]).astype(int)
        names, places = np.unique(both, return_inverse=True)
        gold, predicted = places[: self.size], places[self.size : 2 * self.size]
        outside = None if self.out_of_scope is None else int(places[-1])
        found = [self._resample(gold, predicted, len(names), drawn, outside) for drawn in indices]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    @staticmethod
    def _resample(
        gold: Array, predicted: Array, labels: int, drawn: Array, out_of_scope: int | None
    ) -> dict[str, Array]:
        expected, found = gold[drawn], predicted[drawn]
        hits = expected[expected == found]
        sums = np.stack([np.bincount(each, minlength=labels) for each in (hits, expected, found)])
        return _metrics(sums.astype(float).reshape(-1), out_of_scope=out_of_scope)


def _metrics(sums: Array, *, out_of_scope: int | None) -> dict[str, Array]:
    hits, gold, found = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = ratio(2.0 * hits, gold + found)
    # as scikit-learn: the mean over the labels that occur in examples or predictions
    occurring = (gold + found > 0).sum(-1)
    metrics = {
        "accuracy": hits.sum(-1) / gold.sum(-1),
        "macro_f1": f1.sum(-1) / np.maximum(occurring, 1),
    }
    if out_of_scope is None:
        return metrics
    hits_outside, outside = hits[..., out_of_scope], gold[..., out_of_scope]
    return {
        **metrics,
        "in_scope_accuracy": ratio(hits.sum(-1) - hits_outside, gold.sum(-1) - outside),
        "out_of_scope_recall": ratio(hits_outside, outside),
    }
