"""Paired significance tests."""

import numpy as np
import pytest
from scipy import stats

from adapterhub.evaluation.paired_tests import differences, mcnemar
from adapterhub.tasks.predictions import ExampleStatistics


class Plain:
    """Scores of which nothing is known but their metrics."""

    max_resamples = 100

    def __init__(self, scores):
        self._scores = scores
        self.size = scores.size

    def metrics(self, indices):
        return self._scores.metrics(indices)


def shares(right):
    values = np.stack([np.asarray(right, dtype=float), np.ones(len(right))], axis=-1)
    return ExampleStatistics(values, lambda s: {"share": s[..., 0] / s[..., 1]}, ("share",))


def test_the_exact_test_is_the_binomial_one():
    first = [True] * 50 + [True] * 3 + [False] * 12 + [False] * 5
    second = [True] * 50 + [False] * 3 + [True] * 12 + [False] * 5
    found = mcnemar(first, second)
    assert (found.both, found.first_only, found.second_only, found.neither) == (50, 3, 12, 5)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))
    assert mcnemar(first, first).p_value == 1.0


def test_few_examples_are_tested_exactly():
    # one pair out of three differs: half of the swaps give a difference as large
    (found,) = differences(shares([1, 1, 0]), shares([1, 1, 1]))
    assert found.value == pytest.approx(1 / 3)
    assert found.p_value == pytest.approx(1.0)
    # all of six differ in one direction: 2 of 64 swaps are as extreme
    (found,) = differences(shares([0] * 6), shares([1] * 6))
    assert found.p_value == pytest.approx(2 / 64)


def test_chance_is_not_taken_for_a_difference_and_a_difference_not_for_chance():
    draw = np.random.default_rng(0)
    base = draw.random(400) < 0.8
    better = base | (draw.random(400) < 0.3)
    (found,) = differences(shares(base), shares(better))
    assert found.p_value < 0.001
    assert found.interval.low > 0
    assert found.test == "permutation"
    small = 0
    for seed in range(40):
        flips = np.random.default_rng(seed)
        one, two = (flips.random(100) < 0.8 for _ in range(2))
        (each,) = differences(shares(one), shares(two), resamples=200, seed=seed)
        small += each.p_value < 0.05
    assert small <= 6


def test_other_metrics_are_tested_by_the_bootstrap():
    draw = np.random.default_rng(1)
    base = draw.random(300) < 0.7
    (found,) = differences(Plain(shares(base)), Plain(shares(base | (draw.random(300) < 0.5))))
    assert found.test == "bootstrap"
    # what was found counts as a draw too, and there are two sides
    assert found.p_value == pytest.approx(2 / 101)
    (same,) = differences(Plain(shares(base)), Plain(shares(base)))
    assert same.p_value == 1.0


def test_undefined_resamples_do_not_lower_the_p_value():
    class Torn(Plain):
        """Half of the resamples have no value, as an area under a curve of one label."""

        def metrics(self, indices):
            values = self._scores.metrics(indices)["share"].copy()
            if len(values) > 1:
                values[::2] = np.nan
            return {"share": values}

    right = [1] * 30 + [0] * 30
    (same,) = differences(Torn(shares(right)), Torn(shares(right)))
    assert same.p_value == 1.0
    (other,) = differences(Torn(shares([0] * 60)), Torn(shares([1] * 60)))
    assert other.p_value == pytest.approx(2 / 51)


def test_one_example_shows_no_difference():
    (found,) = differences(shares([0]), shares([1]))
    assert (found.value, found.p_value) == (1.0, 1.0)


def test_other_numbers_of_examples_are_no_pairs():
    with pytest.raises(ValueError, match="can't be paired"):
        differences(shares([1, 0]), shares([1, 0, 1]))
