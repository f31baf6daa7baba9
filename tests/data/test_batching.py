"""Batches: every example once, bounds, and little padding."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.data.batching import padding_share, plan_batches, random_batches, shard
from adapterhub.errors import DataError

LENGTHS = st.lists(st.integers(0, 300), max_size=200)
SEEDS = st.integers(-(2**40), 2**40)
SKEWED = np.random.default_rng(0).lognormal(3.5, 0.8, 3000).astype(int).clip(1, 512).tolist()


def flat(batches):
    return [index for batch in batches for index in batch]


def plan(lengths, *, size=None, tokens=None, seed=1, epoch=0, shuffle=True):
    return plan_batches(
        lengths, batch_size=size, batch_tokens=tokens, seed=seed, epoch=epoch, shuffle=shuffle
    )


@given(LENGTHS, st.integers(1, 40), SEEDS, st.integers(0, 9), st.booleans())
def test_every_example_once_and_no_batch_over_its_examples(lengths, size, seed, epoch, shuffle):
    batches = plan(lengths, size=size, seed=seed, epoch=epoch, shuffle=shuffle)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert batches == plan(lengths, size=size, seed=seed, epoch=epoch, shuffle=shuffle)


@given(LENGTHS, st.integers(1, 900), SEEDS, st.booleans())
def test_no_batch_over_its_tokens_but_a_single_example(lengths, tokens, seed, shuffle):
    batches = plan(lengths, tokens=tokens, seed=seed, shuffle=shuffle)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= tokens


@given(LENGTHS, st.integers(1, 40), st.booleans())
def test_examples_of_a_batch_come_longest_first(lengths, size, shuffle):
    for batch in plan(lengths, size=size, shuffle=shuffle):
        found = [lengths[i] for i in batch]
        assert found == sorted(found, reverse=True)


def test_epochs_and_seeds_differ_and_batches_mix_anew():
    first = plan(SKEWED, size=16)
    other = plan(SKEWED, size=16, epoch=1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in other}
    assert first != plan(SKEWED, size=16, seed=2)


def test_the_order_of_batches_is_not_that_of_lengths():
    longest = [SKEWED[batch[0]] for batch in plan(SKEWED, size=16)]
    rising = sum(a < b for a, b in pairwise(longest))
    assert 0.3 < rising / len(longest) < 0.7


def test_the_global_generators_are_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    plan(SKEWED, size=16)
    assert np.random.get_state()[1].tolist() == before


def test_buckets_waste_far_less_than_random_batches():
    many = SKEWED * 8
    ours = padding_share(many, plan(many, size=16))
    plain = padding_share(many, random_batches(len(many), 16, seed=1, epoch=0))
    assert plain > 0.4
    assert ours < 0.2 * plain


def test_a_short_epoch_is_shuffled_nonetheless():
    few = SKEWED[:128]
    batches = plan(few, size=16)
    # sorted whole, no two batches would overlap in length
    spans = sorted((few[batch[-1]], few[batch[0]]) for batch in batches)
    assert sum(low < high for (_, high), (low, _) in pairwise(spans)) >= len(spans) // 2


def test_padding_share_is_the_share_of_padded_positions():
    # 4 x 2 positions of which 4 + 1 hold a token, and 2 x 1 all full
    assert padding_share([4, 1, 2], [[0, 1], [2]]) == pytest.approx(3 / 10)
    assert padding_share([], []) == 0.0


def test_random_batches_hold_every_example_once():
    batches = random_batches(10, 4, seed=3, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(flat(batches)) == list(range(10))
    assert batches != random_batches(10, 4, seed=3, epoch=1)


@pytest.mark.parametrize(("size", "tokens"), [(None, None), (4, 64), (0, None), (None, -1)])
def test_a_batch_has_one_bound(size, tokens):
    with pytest.raises(ValueError, match="batch"):
        plan([1, 2], size=size, tokens=tokens)


@given(LENGTHS, st.integers(1, 30), st.integers(1, 8))
def test_processes_share_all_examples_in_equally_many_batches(lengths, size, world):
    batches = plan(lengths, size=size)
    if 0 < len(lengths) < world:
        with pytest.raises(DataError, match="fewer processes"):
            shard(batches, 0, world)
        return
    shares = [shard(batches, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(index for share in shares for index in flat(share)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= max(size, 2) for share in shares for batch in share)


def test_single_examples_are_joined_where_they_do_not_divide():
    shares = [shard([[4], [3], [2], [1], [0]], rank, 3) for rank in range(3)]
    assert shares == [[[4]], [[3, 2]], [[1, 0]]]


def test_one_process_gets_the_batches_as_they_are():
    batches = plan(SKEWED, size=16)
    assert shard(batches, 0, 1) == batches


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world(rank):
    with pytest.raises(ValueError, match="is not among 2 processes"):
        shard([[0], [1]], rank, 2)
