"""What a segmented low-rank product computes, and its plain implementation.

All adapters of a linear layer lie in two tables of *rank rows*: row ``i`` of ``A`` is
``[in]`` and row ``i`` of ``B`` is ``[out]``, an adapter of rank ``r`` has ``r`` rows one after the
other. A token that uses parts ``p`` of the tables, each with a weight, gets

    y += sum_p  w_p · (x A_pᵀ) B_p

so a blend is several parts of one token, and nothing is padded: a token pays for the ranks of
its own adapter. The scale of an adapter is folded into its rows of ``B`` when it is loaded.
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


#: Tokens from which on a run is better done as a matrix product.
LONG_RUN = 128


class Part(NamedTuple):
    """A range of rank rows, and what their product counts.

    Args:
        row: the first one.
        rank: how many.
        weight: factor of the product.
    """

    row: int
    rank: int
    weight: float


class Run(NamedTuple):
    """Neighbouring tokens that use the same parts.

    Args:
        start: first token.
        end: one past the last token.
        parts: at least one.
    """

    start: int
    end: int
    parts: tuple[Part, ...]


class LoraPlan:
    """Which tokens of a batch use which rank rows; the same for every layer that has them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Describe a batch.

        Args:
            runs: in the order of tokens; tokens outside all of them have no adapter.
        """
        self.runs = tuple(runs)

    @cached_property
    def tables(self) -> PlanTables:
        """The plan as arrays, tokens of the same parts one after the other."""
        parts = [part for run in self.runs for part in run.parts]
        firsts = np.cumsum([0, *(len(run.parts) for run in self.runs)], dtype=np.int64)
        order = sorted(range(len(self.runs)), key=lambda index: self.runs[index].parts)
        tokens = [
            (token, index)
            for index in order
            for token in range(self.runs[index].start, self.runs[index].end)
        ]
        return PlanTables(
            tokens=np.array(tokens, np.int64).reshape(-1, 2),
            firsts=firsts,
            rows=np.array([(part.row, part.rank) for part in parts], np.int64).reshape(-1, 2),
            weights=np.array([part.weight for part in parts], np.float32),
        )

    @cached_property
    def split(self) -> tuple[tuple[Run, ...], LoraPlan | None]:
        """The runs that are matrix products, and a plan of the others."""
        long = tuple(run for run in self.runs if run.end - run.start >= LONG_RUN)
        short = [run for run in self.runs if run.end - run.start < LONG_RUN]
        if not long:
            return (), self
        return long, LoraPlan(short) if short else None


class PlanTables(NamedTuple):
    """A plan for compiled loops.

    Args:
        tokens: int64 ``[tokens, 2]``: token, and its run.
        firsts: int64 ``[runs + 1]``: first part of each run.
        rows: int64 ``[parts, 2]``: first rank row, and rank.
        weights: float32 ``[parts]``.
    """

    tokens: NDArray[np.int64]
    firsts: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float32]


class LoraKernel(Protocol):
    """Adds the low-rank products of a batch to the output of the base layer."""

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add to ``y`` in place.

        Args:
            y: ``[tokens, out]`` in the compute type, contiguous.
            x: ``[tokens, in]`` in the compute type, contiguous.
            a: ``[rank rows, in]`` in the compute type.
            b: ``[rank rows, out]`` in the compute type, scales folded in.
            plan: which tokens use which rows.
        """


class ReferenceKernel:
    """The formula in plain torch; what is between the two products is float32."""

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add to ``y`` in place; see ``LoraKernel``."""
        for start, end, parts in plan.runs:
            tokens = slice(start, end)
            total = y[tokens].float()
            for row, rank, weight in parts:
                rows = slice(row, row + rank)
                inner = x[tokens].float() @ a[rows].float().t()
                total = total + weight * (inner @ b[rows].float())
            y[tokens] = total.to(y.dtype)


def plan_of(uses: Sequence[tuple[int, tuple[Part, ...]]]) -> LoraPlan | None:
    """Return the plan of neighbouring groups of tokens, or ``None`` where none has a part.

    Args:
        uses: number of tokens and their parts, in the order of the batch.
    """
    runs: list[Run] = []
    start = 0
    for count, parts in uses:
        if parts and runs and runs[-1].parts == parts and runs[-1].end == start:
            runs[-1] = Run(runs[-1].start, start + count, parts)
        elif parts and count:
            runs.append(Run(start, start + count, parts))
        start += count
    return LoraPlan(runs) if runs else None
