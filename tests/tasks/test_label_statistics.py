"""Statistics of chosen labels: both forms agree, and many labels take little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.errors import most_confused
from adapterhub.tasks import label_statistics as module
from adapterhub.tasks.label_statistics import CountedLabels, label_statistics
from adapterhub.tasks.predictions import LabelChoices


def choices(labels: int, size: int, *, right: float = 0.7) -> LabelChoices:
    """Return random choices, a share of them right."""
    generator = np.random.default_rng(0)
    gold, other = generator.integers(0, labels, (2, size))
    predicted = np.where(generator.random(size) < right, gold, other)
    return LabelChoices("examples", tuple(map(str, range(labels))), gold, predicted)


@pytest.mark.parametrize("out_of_scope", [None, 2])
def test_counted_labels_give_the_metrics_of_sums(
    monkeypatch: pytest.MonkeyPatch, out_of_scope: int | None
) -> None:
    given = choices(5, 60)
    sums = intervals(label_statistics(given, out_of_scope), resamples=50)
    monkeypatch.setattr(module, "_MAX_LABELS", 4)
    counted = label_statistics(given, out_of_scope)
    assert isinstance(counted, CountedLabels)
    assert intervals(counted, resamples=50) == sums


def test_memory_grows_with_labels_and_examples_and_not_with_their_product() -> None:
    given = choices(100_000, 300)
    tracemalloc.start()
    intervals(label_statistics(given), resamples=200)
    pairs = most_confused(given, 15)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert len(pairs) == 15
    assert all(pair.gold != pair.predicted for pair in pairs)
