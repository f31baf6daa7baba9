"""Drift of texts and labels is detected at the stated level."""

import numpy as np
import pytest

from adapterhub.evaluation.drift import Drift, label_drift, text_drift


def drawn(seed, examples, shift=0.0, width=16):
    return np.random.default_rng(seed).normal(size=(examples, width)) + shift


def test_other_texts_are_found_and_distinguished():
    found = text_drift(drawn(0, 60), drawn(1, 40, shift=1.0))
    assert found.p_value < 0.01
    assert found.effect > 0.9
    assert (found.old, found.new) == (60, 40)


def test_another_spread_is_found_too_which_no_line_can_tell():
    found = text_drift(drawn(0, 150), 3.0 * drawn(1, 150))
    assert found.p_value < 0.01


def test_examples_of_one_source_drift_no_more_often_than_the_level_says():
    found = [text_drift(drawn(2 * n, 40), drawn(2 * n + 1, 25)).p_value for n in range(60)]
    # 60 trials at 0.05: more than 9 come up once in a thousand times
    assert sum(p < 0.05 for p in found) <= 9
    assert 0.35 < np.mean(found) < 0.65


def test_the_same_examples_again_are_no_drift():
    examples = drawn(4, 30)
    assert text_drift(examples, examples).p_value > 0.9
    assert label_drift({"a": 3, "b": 9}, {"a": 3, "b": 9}).p_value > 0.9


def test_too_few_examples_cannot_be_tested():
    with pytest.raises(ValueError, match="needs 5 examples of each kind"):
        text_drift(drawn(0, 20), drawn(1, 4))


def test_labels_that_come_more_often_are_found():
    found = label_drift({"a": 100, "b": 100}, {"a": 20, "b": 60})
    assert found.p_value < 0.01
    # V of the table, by hand: sqrt(chi2 / n) with chi2 = 280 (100*60 - 100*20)^2 / products
    chi2 = 280 * (100 * 60 - 100 * 20) ** 2 / (200 * 80 * 120 * 160)
    assert found.effect == pytest.approx((chi2 / 280) ** 0.5)
    assert label_drift({"a": 100, "b": 100}, {"a": 21, "b": 20}).p_value > 0.5


def test_rare_labels_are_no_drift_by_themselves():
    old = {f"label {n}": 4 for n in range(60)}
    new = {f"label {n}": n % 2 for n in range(60)}
    assert label_drift(old, new).p_value > 0.05
    assert label_drift({"a": 5}, {"a": 2}).p_value == 1.0
    with pytest.raises(ValueError, match="no labels"):
        label_drift({"a": 5}, {"a": 0})


def test_the_level_is_shared_between_the_tests():
    text = text_drift(drawn(0, 30), drawn(1, 30))
    close = type(text)("labels", "chi-squared", 0.2, 0.03, 9, 9)
    assert Drift((close,), 0.05).found == (close,)
    assert Drift((close, text), 0.05).found == ()
