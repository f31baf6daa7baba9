"""Low-rank factors of a change of weights, within a stated error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Relative error below which a change counts as exactly of a rank. Initialisations that change
#: the backbone store its weights in float32, which rounds by up to a part in 10 million.
EXACT = 1e-5
#: Largest error that a conversion may have by default, relative, in the Frobenius norm.
MAX_ERROR = 0.01
#: Largest rank of a converted layer by default.
MAX_RANK = 256
#: Ranks that are tried first.
_FIRST_RANKS = (32, 128)
#: Side of a matrix that is decomposed as a whole.
_SMALL = 256
_OVERSAMPLING, _POWER_ITERATIONS, _SEED = 16, 2, 0


@dataclass(frozen=True, slots=True)
class RankLimits:
    """Bounds of a conversion to low-rank factors.

    Args:
        max_error: Largest relative error of a layer's change, in the Frobenius norm.
        max_rank: Largest rank of a layer.
    """

    max_error: float = MAX_ERROR
    max_rank: int = MAX_RANK


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Factors of a change of weights, in float32.

    Args:
        down: ``A``.
        up: ``B``.
        relative_error: ``|D - B A| / |D|`` in the Frobenius norm; 0 for a change of zero.
        max_error: Largest absolute entry of ``D - B A``.
    """

    # [rank, in_features]
    down: Tensor
    # [out_features, rank]
    up: Tensor
    relative_error: float
    max_error: float

    @property
    def rank(self) -> int:
        return len(self.down)


def factorize(change: Tensor, limits: RankLimits) -> LowRank:
    """Return the factors of the smallest rank with which a change is exact, or within the bound.

    A change whose exact rank is above ``max_rank`` gets the smallest rank within ``max_error``;
    if there is none, ``max_rank``, and the caller reads the error.

    Args:
        change: Difference of weights ``D``, float64 ``[out_features, in_features]``.
    """
    norm = float(torch.linalg.norm(change))
    # most methods give a small rank, which a small decomposition finds
    for most in (*(rank for rank in _FIRST_RANKS if rank < limits.max_rank), limits.max_rank):
        left, values, right = _decompose(change, most)
        rank = _rank(values, norm, EXACT)
        if rank <= most:
            break
    else:
        rank = min(_rank(values, norm, limits.max_error), limits.max_rank)
    down, up = right[:rank].float().contiguous(), (left[:, :rank] * values[:rank]).float()
    rest = change - up.double() @ down.double()
    error = float(torch.linalg.norm(rest)) / norm if norm else 0.0
    return LowRank(down, up.contiguous(), error, float(rest.abs().max()))


def _decompose(change: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular vectors and values, all of a small matrix or the largest of a big one."""
    wanted = rank + _OVERSAMPLING
    if min(change.shape) <= max(_SMALL, 2 * wanted):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        return left, values, right
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        left, values, right = torch.svd_lowrank(change, q=wanted, niter=_POWER_ITERATIONS)
    return left, values, right.T


def _rank(values: Tensor, norm: float, error: float) -> int:
    """Return the smallest rank of 1 or more whose rest is within a relative error."""
    rest = norm**2 - torch.cumsum(values**2, 0)
    within = (rest <= (error * norm) ** 2).nonzero()
    return int(within[0]) + 1 if len(within) else len(values) + 1
