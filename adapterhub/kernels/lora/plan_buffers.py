"""Plans of a batch in device buffers of fixed size, as the Triton LoRA kernels read them.

A table holds one plan as int32 words:

    tiles     [max_tokens, 4]   first sorted token, number of tokens, first slice, end of slices
    order     [max_tokens]      tokens, sorted by their slices
    slices    [max_slices, 2]   first rank slot, rank
    weights   [max_slices]      float32 bits

Layers that are targeted by the same adapters share a table; ``groups`` maps a layer to its table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from adapterhub.kernels.lora.plan import LoraPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.lora.plan import RankSlice

#: Largest number of tokens in a tile, the number that a tensor core multiplies at a time.
TILE = 16


class PlanBuffers:
    """Buffers for the plans of one step, in host memory and on the device.

    Args:
        max_tokens: Capacity in tokens per batch.
        max_slices: Capacity in rank slices per plan.
        max_ranks: Capacity in ranks per token.
        tables: Number of tables, one of which stays empty.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        max_tokens: int,
        max_slices: int,
        max_ranks: int,
        tables: int = 2,
        layers: int = 1,
    ) -> None:
        self.max_tokens, self.max_slices, self.max_ranks = max_tokens, max_slices, max_ranks
        # offsets within a table
        self.order_at = 4 * max_tokens
        self.slices_at = 5 * max_tokens
        self.weights_at = self.slices_at + 2 * max_slices
        self.table_words = 5 * max_tokens + 3 * max_slices
        self._host = np.zeros(layers + tables * self.table_words, np.int32)
        self._groups = self._host[:layers]
        self._tables = self._host[layers:].reshape(tables, self.table_words)
        self._device = torch.zeros(len(self._host), dtype=torch.int32, device=device)
        # int32 [layers]: table of each layer
        self.groups = self._device[:layers]
        # int32 [tables * table_words]
        self.tables = self._device[layers:]

    def fits(self, plans: Sequence[LoraPlan | None]) -> bool:
        """Return whether the plans of all layers fit into the buffers."""
        distinct = {id(plan): plan for plan in plans if plan is not None}
        return len(distinct) < len(self._tables) and all(
            sum(len(run.slices) for run in plan.runs) <= self.max_slices
            and plan.runs[-1].end <= self.max_tokens
            and max_rank(plan) <= self.max_ranks
            for plan in distinct.values()
        )

    def fill(self, plans: Sequence[LoraPlan | None]) -> None:
        """Write the plans of all layers and copy them to the device.

        Args:
            plans: Plan of each layer, accepted by ``fits``; ``None`` where no token has an adapter.
        """
        written: dict[int, int] = {}
        # table 0 stays empty
        for layer, plan in enumerate(plans):
            if plan is not None and id(plan) not in written:
                written[id(plan)] = len(written) + 1
                self._write(self._tables[written[id(plan)]], plan)
            self._groups[layer] = 0 if plan is None else written[id(plan)]
        self._device.copy_(torch.from_numpy(self._host))

    def _write(self, table: NDArray[np.int32], plan: LoraPlan) -> None:
        tiles = table[: self.order_at].reshape(self.max_tokens, 4)
        order = table[self.order_at : self.slices_at]
        slices = table[self.slices_at : self.weights_at].reshape(self.max_slices, 2)
        weights = table[self.weights_at :].view(np.float32)
        tiles[:] = 0
        tile = token = first = 0
        for used, tokens in tokens_by_slices(plan):
            end = first + len(used)
            slices[first:end] = [(each.start, each.rank) for each in used]
            weights[first:end] = [each.weight for each in used]
            order[token : token + len(tokens)] = tokens
            for start in range(0, len(tokens), TILE):
                count = min(TILE, len(tokens) - start)
                tiles[tile] = (token + start, count, first, end)
                tile += 1
            token, first = token + len(tokens), end


class BufferedPlan(LoraPlan):
    """The plan that lies in a layer's buffers, whose contents may change between uses."""

    def __init__(self, buffers: PlanBuffers, layer: int = 0) -> None:
        super().__init__(())
        self.buffers = buffers
        # int32 [1]: table of the layer
        self.group: Tensor = buffers.groups[layer : layer + 1]


def tokens_by_slices(plan: LoraPlan) -> list[tuple[tuple[RankSlice, ...], list[int]]]:
    """Return the distinct slices of a plan with their tokens, sorted by rank slot."""
    tokens: dict[tuple[RankSlice, ...], list[int]] = {}
    for run in plan.runs:
        tokens.setdefault(run.slices, []).extend(range(run.start, run.end))
    return sorted(tokens.items())


def max_rank(plan: LoraPlan) -> int:
    """Return the largest sum of ranks that a token uses."""
    return max(sum(each.rank for each in run.slices) for run in plan.runs)


def buffered(plan: LoraPlan, device: torch.device) -> BufferedPlan:
    """Return a plan in buffers of exactly its size."""
    buffers = PlanBuffers(
        device,
        max_tokens=plan.runs[-1].end,
        max_slices=sum(len(run.slices) for run in plan.runs),
        max_ranks=max_rank(plan),
    )
    buffers.fill([plan])
    return BufferedPlan(buffers)
