"""Weights found by evaluations alone: as good as they can be, repeatable, within bounds."""

import math

import pytest

from adapterhub.composition.weight_search import optimize_weights
from adapterhub.errors import RecipeError


def bowl(weights):
    """Least at 0.8 and -0.4."""
    return (weights[0] - 0.8) ** 2 + (weights[1] + 0.4) ** 2


def test_the_least_loss_is_found():
    found = optimize_weights(bowl, 2, budget=200, l1=0.0)
    assert found.weights == pytest.approx((0.8, -0.4), abs=0.05)
    assert found.loss == bowl(found.weights)


@pytest.mark.parametrize("budget", [1, 5, 40])
def test_the_loss_is_evaluated_within_budget_and_the_best_weights_are_kept(budget):
    tried = []
    found = optimize_weights(lambda w: tried.append(w) or bowl(w), 2, budget=budget, l1=0.0)
    assert len(tried) == found.evaluations == budget
    assert found.loss == min(map(bowl, tried))


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    assert optimize_weights(bowl, 2, seed=5) == optimize_weights(bowl, 2, seed=5)
    assert optimize_weights(bowl, 2, seed=5) != optimize_weights(bowl, 2, seed=6)


def test_weights_stay_within_the_bounds():
    found = optimize_weights(lambda weights: -sum(weights), 3, bounds=0.5, budget=60, l1=0.0)
    assert all(-0.5 <= weight <= 0.5 for weight in found.weights)
    assert sum(found.weights) > 0.9


def test_large_weights_are_disliked():
    def nearly_flat(weights):
        return -0.01 * sum(weights)

    free = optimize_weights(nearly_flat, 2, l1=0.0)
    held = optimize_weights(nearly_flat, 2, l1=0.5)
    assert sum(map(abs, held.weights)) < 0.2 < sum(map(abs, free.weights))


def test_a_loss_that_is_not_finite_is_the_worst():
    found = optimize_weights(lambda w: bowl(w) if w[0] > 0.5 else math.nan, 2, budget=80)
    assert found.weights[0] > 0.5
    with pytest.raises(RecipeError, match="no weights gave a finite loss"):
        optimize_weights(lambda _: math.inf, 2)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"count": 1}, "composition.search.adapters: must be 2 or more, found 1"),
        ({"count": 2, "budget": 0}, "composition.search.budget: must be 1 or more, found 0"),
        ({"count": 2, "bounds": 0.0}, "bounds 0.0 must be above 0"),
        ({"count": 2, "l1": -1.0}, "l1 -1.0 not negative"),
    ],
)
def test_settings_that_can_not_be_used_are_refused(settings, problem):
    with pytest.raises(RecipeError) as caught:
        optimize_weights(bowl, **settings)
    assert problem in str(caught.value)
