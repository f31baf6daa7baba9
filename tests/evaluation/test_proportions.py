"""Coverage of the intervals of proportions and their differences."""

import numpy as np
import pytest
from scipy.stats import binomtest

from adapterhub.evaluation.proportions import paired_delta, proportion


@pytest.mark.parametrize(("hits", "count"), [(0, 12), (1, 12), (7, 20), (20, 20), (300, 1000)])
def test_wilson_as_scipy_has_it(hits, count):
    found = proportion([True] * hits + [False] * (count - hits))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert found.interval.low == pytest.approx(expected.low, abs=1e-12)
    assert found.interval.high == pytest.approx(expected.high, abs=1e-12)


def test_fewer_units_are_less_sure():
    hits = [True, True, False, False] * 10
    wide, narrow = proportion(hits, units=10).interval, proportion(hits).interval
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high


def test_paired_intervals_hold_the_difference_as_often_as_they_say():
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(600):
        common = draw.random(40) < 0.5
        first = np.where(common, draw.random(40) < 0.2, False)
        second = first | (draw.random(40) < 0.15)
        # 0.1, and 0.1 + 0.9 * 0.15
        found = paired_delta(first, second)
        held += found.interval.low <= 0.135 <= found.interval.high
    assert held / 600 > 0.93


def test_what_the_two_share_makes_a_difference_surer():
    first = np.array([True] * 10 + [False] * 30)
    second = first.copy()
    second[10:14] = True
    apart = np.array([False] * 26 + [True] * 14)
    paired, unpaired = paired_delta(first, second), paired_delta(first, apart)
    assert paired.value == unpaired.value == pytest.approx(0.1)
    assert paired.interval.low > unpaired.interval.low
    assert not unpaired.shown


def test_where_nothing_differs_it_still_has_a_width():
    found = paired_delta([False] * 30, [False] * 30)
    assert found.value == 0.0
    assert found.interval.low < 0 < found.interval.high
    assert not found.shown
    half = [True, False] * 3
    same = paired_delta(half, half)
    assert same.interval.low < 0 < same.interval.high


def test_things_told_several_times_make_no_difference_surer():
    draw = np.random.default_rng(3)
    first = draw.random(40) < 0.3
    second = first ^ (draw.random(40) < 0.1)
    once = paired_delta(first, second)
    thrice = paired_delta(np.repeat(first, 3), np.repeat(second, 3), units=40)
    assert (thrice.value, thrice.interval.low, thrice.interval.high) == pytest.approx(
        (once.value, once.interval.low, once.interval.high)
    )


def test_nothing_has_no_share_and_others_no_pairs():
    with pytest.raises(ValueError, match="at least one trial"):
        proportion([])
    with pytest.raises(ValueError, match="can't be paired"):
        paired_delta([True], [True, False])
