"""Expected calibration error and temperature scaling."""

import numpy as np
import pytest

from adapterhub.evaluation.calibration import (
    calibration,
    fit_temperature,
    temperature_of,
    tempered,
)


def sample(temperature, count=4000, seed=0):
    """Return probabilities of logits that are too large by ``temperature``, with their labels."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, 4)) * 2.0
    true = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gold = (true.cumsum(-1) < draw.random((count, 1))).sum(-1)
    sharp = np.exp(logits * temperature)
    return sharp / sharp.sum(-1, keepdims=True), gold


def test_the_error_is_the_mean_distance_over_bins():
    confidence = np.array([0.55, 0.55, 0.95, 0.95])
    correct = np.array([True, False, True, True])
    found = calibration(confidence, correct, bins=10)
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert [(each.low, each.count) for each in found.bins] == [
        (pytest.approx(0.5), 2),
        (pytest.approx(0.9), 2),
    ]


def test_probabilities_of_one_and_zero_have_a_bin():
    found = calibration(np.array([0.0, 1.0]), np.array([False, True]))
    assert found.error == 0.0
    assert sum(each.count for each in found.bins) == 2


def test_the_temperature_of_logits_that_are_too_large_is_found_again():
    for temperature in (0.5, 1.0, 3.0):
        probabilities, gold = sample(temperature)
        assert fit_temperature(probabilities, gold) == pytest.approx(temperature, rel=0.1)


def test_a_temperature_repairs_what_is_too_sure_and_changes_no_answer():
    probabilities, gold = sample(3.0)
    found = temperature_of(probabilities, gold)
    assert found.after < 0.03 < found.before
    assert found.nll_after < found.nll_before
    cooled = tempered(probabilities, found.value)
    assert (cooled.argmax(-1) == probabilities.argmax(-1)).all()
    np.testing.assert_allclose(cooled.sum(-1), 1.0)
