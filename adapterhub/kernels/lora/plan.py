"""Assignment of the tokens of a batch to the rank slots of their adapters.

All adapters of a linear layer share two tables of rank slots: slot ``i`` of ``A`` is ``[in]``, slot
``i`` of ``B`` is ``[out]``, and an adapter of rank ``r`` occupies ``r`` consecutive slots. A token
that uses the rank slices ``p``, each with a weight, gets

    y += sum_p  w_p · (x A_pᵀ) B_p

A blend is several slices of one token. Nothing is padded: the cost of a token is the rank of its
own adapter. The scale of an adapter is folded into its slots of ``B`` when it is loaded.
Source of the segmented form: Chen et al. 2023, "Punica", arXiv:2310.18547, section 4.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor


#: Length from which a run of tokens is computed as a matrix product.
LONG_RUN = 128
#: Length from which a run is computed with matrix tiles; packing its slots takes as long as some
#: tokens one by one.
TILED_RUN = 8
#: Most tokens that are computed with slots packed once.
TILED_PART = 128


class RankSlice(NamedTuple):
    """Consecutive rank slots and the weight of their product."""

    start: int
    rank: int
    weight: float


class TokenRun(NamedTuple):
    """Consecutive tokens that use the same rank slices.

    Args:
        start: First token.
        end: One past the last token.
        slices: Rank slices, at least one.
    """

    start: int
    end: int
    slices: tuple[RankSlice, ...]


class PlanArrays(NamedTuple):
    """A plan as arrays, for compiled kernels."""

    # int64 [num_tokens, 2]: token, index of its run
    tokens: NDArray[np.int64]
    # int64 [num_runs + 1]: first slice of each run
    offsets: NDArray[np.int64]
    # int64 [num_slices, 2]: first rank slot, rank
    slices: NDArray[np.int64]
    # float32 [num_slices]
    weights: NDArray[np.float32]


class PartArrays(NamedTuple):
    """Parts of long runs as arrays, for kernels with matrix tiles."""

    # int64 [num_parts, 3]: first token, one past the last, index of its run
    bounds: NDArray[np.int64]
    # int64 [num_runs + 1]: first of the slots of each run
    offsets: NDArray[np.int64]
    # int64 [num_slots]: rank slots of each run
    slots: NDArray[np.int64]
    # float32 [num_slots]: weight of each slot
    weights: NDArray[np.float32]


class LoraPlan:
    """Rank slices of every token of a batch, the same for all layers that an adapter targets.

    Args:
        runs: Runs in the order of their tokens; tokens outside all runs have no adapter.
    """

    def __init__(self, runs: Sequence[TokenRun]) -> None:
        self.runs = tuple(runs)

    @cached_property
    def arrays(self) -> PlanArrays:
        """The plan as arrays, with tokens sorted by their slices."""
        slices = [each for run in self.runs for each in run.slices]
        order = sorted(range(len(self.runs)), key=lambda index: self.runs[index].slices)
        tokens = [
            (token, index)
            for index in order
            for token in range(self.runs[index].start, self.runs[index].end)
        ]
        return PlanArrays(
            tokens=np.array(tokens, np.int64).reshape(-1, 2),
            offsets=np.cumsum([0, *(len(run.slices) for run in self.runs)], dtype=np.int64),
            slices=np.array([(each.start, each.rank) for each in slices], np.int64).reshape(-1, 2),
            weights=np.array([each.weight for each in slices], np.float32),
        )

    @cached_property
    def split(self) -> tuple[tuple[TokenRun, ...], LoraPlan | None]:
        """The runs of at least ``LONG_RUN`` tokens, and a plan of the other runs."""
        return self._split(LONG_RUN)

    @cached_property
    def tiled(self) -> tuple[PartArrays | None, LoraPlan | None]:
        """Parts of the runs of at least ``TILED_RUN`` tokens, and a plan of the other runs."""
        long, short = self._split(TILED_RUN)
        return (_parts(long) if long else None), short

    def _split(self, length: int) -> tuple[tuple[TokenRun, ...], LoraPlan | None]:
        long = tuple(run for run in self.runs if run.end - run.start >= length)
        short = [run for run in self.runs if run.end - run.start < length]
        if not long:
            return (), self
        return long, LoraPlan(short) if short else None


def _parts(runs: Sequence[TokenRun]) -> PartArrays:
    """Divide runs into parts, a long one beside a short one."""
    bounds: list[tuple[int, int, int]] = []
    offsets, slots, weights = [0], list[int](), list[float]()
    for number, run in enumerate(runs):
        for start, rank, weight in run.slices:
            slots += range(start, start + rank)
            weights += [weight] * rank
        offsets.append(len(slots))
        for first in range(run.start, run.end, TILED_PART):
            bounds.append((first, min(first + TILED_PART, run.end), number))
    # each thread computes consecutive parts, so every fourth by size is beside each other
    bounds.sort(key=lambda part: part[0] - part[1])
    return PartArrays(
        bounds=np.array([part for at in range(4) for part in bounds[at::4]], np.int64),
        offsets=np.array(offsets, np.int64),
        slots=np.array(slots, np.int64),
        weights=np.array(weights, np.float32),
    )


class LoraKernel(Protocol):
    """Segmented LoRA product of a batch in which each token has its own adapters."""

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add ``sum_p w_p (x A_pᵀ) B_p`` to ``y`` in place.

        Args:
            y: Output of the base layer ``[num_tokens, out]`` in the compute type, contiguous.
            x: Input of the base layer ``[num_tokens, in]`` in the compute type, contiguous.
            a: Table ``[rank_slots, in]`` in the compute type.
            b: Table ``[rank_slots, out]`` in the compute type, with scales folded in.
        """


def build_plan(uses: Sequence[tuple[int, tuple[RankSlice, ...]]]) -> LoraPlan | None:
    """Return the plan of a batch, or ``None`` if no token uses a rank slice.

    Args:
        uses: Number of tokens and rank slices of each sequence, in the order of the batch.
    """
    runs: list[TokenRun] = []
    start = 0
    for count, slices in uses:
        if slices and runs and runs[-1].slices == slices and runs[-1].end == start:
            runs[-1] = TokenRun(runs[-1].start, start + count, slices)
        elif slices and count:
            runs.append(TokenRun(start, start + count, slices))
        start += count
    return LoraPlan(runs) if runs else None
