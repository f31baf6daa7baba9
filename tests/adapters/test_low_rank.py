"""Factors of a change of weights: exact where its rank is small, else within the stated error."""

import pytest
import torch

from adapterhub.adapters.low_rank import EXACT, RankLimits, factorize


def change(rank, shape=(40, 60), seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randn(size, dtype=torch.float64, generator=generator)
        for size in ((shape[0], rank), (rank, shape[1]))
    )
    return first @ second


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (400, 300)])
@pytest.mark.parametrize("rank", [1, 7, 40])
def test_a_change_of_small_rank_is_exact(shape, rank):
    delta = change(rank, shape)
    found = factorize(delta, RankLimits())
    assert found.rank == rank
    assert found.relative_error < EXACT
    rest = delta - found.up.double() @ found.down.double()
    assert found.max_error == pytest.approx(float(rest.abs().max()))


def test_the_smallest_rank_within_the_error_is_taken():
    values = 0.5 ** torch.arange(40, dtype=torch.float64)
    delta = torch.diag(values)
    found = factorize(delta, RankLimits(max_error=0.01, max_rank=10))
    assert found.rank == 7
    assert found.relative_error == pytest.approx(float(values[7:].norm() / values.norm()))
    assert factorize(delta, RankLimits(max_error=0.2, max_rank=10)).rank == 3


def test_the_error_of_the_largest_rank_is_measured():
    found = factorize(torch.eye(40, dtype=torch.float64), RankLimits(max_rank=10))
    assert found.rank == 10
    assert found.relative_error == pytest.approx((30 / 40) ** 0.5, rel=1e-6)
    assert found.max_error == pytest.approx(1.0, abs=0.9)


def test_no_change_is_a_pair_of_zeros():
    found = factorize(torch.zeros(4, 6, dtype=torch.float64), RankLimits())
    assert (found.rank, found.relative_error, found.max_error) == (1, 0.0, 0.0)
    assert not (found.up @ found.down).any()


def test_equal_changes_give_equal_factors_whatever_was_drawn_before():
    delta = change(300, (700, 600))
    first = factorize(delta, RankLimits(max_error=0.9, max_rank=64))
    torch.randn(5)
    second = factorize(delta, RankLimits(max_error=0.9, max_rank=64))
    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)
