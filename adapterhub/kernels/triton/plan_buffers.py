"""Plans of a batch in device memory of fixed size, as the programs of ``code/lora.py`` read them.

A table holds one plan, all of it int32:

    tiles     [tokens, 4]   first sorted token, how many, first part, one past the last part
    order     [tokens]      tokens, those with the same parts one after the other
    parts     [parts, 2]    first rank row, rank
    weights   [parts]       bits of float32

Layers that the same adapters have share a table; ``groups`` says which table is a layer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from adapterhub.kernels.lora_rows import LoraPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.lora_rows import Part

#: Most tokens of a tile, which is what a tensor core multiplies at a time.
TILE = 16


class PlanBuffers:
    """Room for the plans of a step, in host memory and on the device.

    Args:
        device: of the backbone.
        tokens: most of a batch.
        parts: most of a plan.
        ranks: most that one token uses.
        tables: most plans of a step, one of which is the empty one.
        layers: that have a group.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        tokens: int,
        parts: int,
        ranks: int,
        tables: int = 2,
        layers: int = 1,
    ) -> None:
        self.tokens, self.parts, self.ranks = tokens, parts, ranks
        self.table_words = 5 * tokens + 3 * parts
        self.order_at = 4 * tokens
        self.parts_at = 5 * tokens
        self.weights_at = self.parts_at + 2 * parts
        self._host = np.zeros(layers + tables * self.table_words, np.int32)
        self._groups = self._host[:layers]
        self._tables = self._host[layers:].reshape(tables, self.table_words)
        self._device = torch.zeros(len(self._host), dtype=torch.int32, device=device)
        #: int32 [layers], which table is a layer's
        self.groups = self._device[:layers]
        #: int32 [tables * words of one]
        self.tables = self._device[layers:]

    def fits(self, plans: Sequence[LoraPlan | None]) -> bool:
        """Return whether all layers' plans have room."""
        different = {id(plan): plan for plan in plans if plan is not None}
        return len(different) < len(self._tables) and all(
            sum(len(run.parts) for run in plan.runs) <= self.parts
            and plan.runs[-1].end <= self.tokens
            and widest(plan) <= self.ranks
            for plan in different.values()
        )

    def fill(self, plans: Sequence[LoraPlan | None]) -> None:
        """Write the plans of all layers, one each, and bring them to the device.

        Args:
            plans: of every layer, as ``fits`` accepts them; ``None`` where no token has a part.
        """
        known: dict[int, int] = {}
        # table 0 stays empty
        for layer, plan in enumerate(plans):
            if plan is not None and id(plan) not in known:
                known[id(plan)] = len(known) + 1
                self._write(self._tables[known[id(plan)]], plan)
            self._groups[layer] = 0 if plan is None else known[id(plan)]
        self._device.copy_(torch.from_numpy(self._host))

    def _write(self, table: NDArray[np.int32], plan: LoraPlan) -> None:
        tiles = table[: self.order_at].reshape(self.tokens, 4)
        order = table[self.order_at : self.parts_at]
        parts = table[self.parts_at : self.weights_at].reshape(self.parts, 2)
        weights = table[self.weights_at :].view(np.float32)
        tiles[:] = 0
        tile = token = part = 0
        for used, tokens in segments(plan):
            end = part + len(used)
            parts[part:end] = [(each.row, each.rank) for each in used]
            weights[part:end] = [each.weight for each in used]
            order[token : token + len(tokens)] = tokens
            for start in range(0, len(tokens), TILE):
                count = min(TILE, len(tokens) - start)
                tiles[tile] = (token + start, count, part, end)
                tile += 1
            token, part = token + len(tokens), end


class BufferedPlan(LoraPlan):
    """A plan whose arrays lie in buffers; what they hold may change between uses."""

    def __init__(self, buffers: PlanBuffers, layer: int = 0) -> None:
        """Stand for the plan of a layer.

        Args:
            buffers: of the step.
            layer: whose plan it is.
        """
        super().__init__(())
        self.buffers = buffers
        self.group: Tensor = buffers.groups[layer : layer + 1]


def segments(plan: LoraPlan) -> list[tuple[tuple[Part, ...], list[int]]]:
    """Return different parts and the tokens that use them, in the order of their rank rows."""
    tokens: dict[tuple[Part, ...], list[int]] = {}
    for run in plan.runs:
        tokens.setdefault(run.parts, []).extend(range(run.start, run.end))
    return sorted(tokens.items())


def widest(plan: LoraPlan) -> int:
    """Return the most ranks that one token uses."""
    return max(sum(part.rank for part in run.parts) for run in plan.runs)


def buffered(plan: LoraPlan, device: torch.device) -> BufferedPlan:
    """Return a plan in buffers of its own size."""
    buffers = PlanBuffers(
        device,
        tokens=plan.runs[-1].end,
        parts=sum(len(run.parts) for run in plan.runs),
        ranks=widest(plan),
    )
    buffers.fill([plan])
    return BufferedPlan(buffers)
