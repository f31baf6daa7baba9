"""A decoding step as data in buffers that never move: what a CUDA graph reads at every replay.

All rows of such a step have one token. It is filled up to one of a few sizes with *inert* rows:
token 0 at position 0, one position of context, whose keys and values go to a block of the cache
that belongs to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.engine.forward_context import ForwardContext
from adapterhub.kernels.attention.paged import DecodeTokens, PagedBatch, PageTable
from adapterhub.kernels.lora.plan_buffers import BufferedPlan, PlanBuffers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.attention.paged import PagedAttention
    from adapterhub.kernels.lora.plan import LoraPlan


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """A row with one token.

    Args:
        token: its id.
        position: of the token.
        blocks: of the cache, all that the row has.
    """

    token: int
    position: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class DecodeSizes:
    """What the buffers have room for; a step that needs more is computed without them.

    Args:
        rows: sizes that steps are filled up to, in rising order.
        positions: most of a row.
        parts: ranges of rank rows of one layer, over all rows.
        ranks: that one row uses.
        layouts: different sets of layers that adapters have, over all rows.
    """

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    positions: int = 16384
    parts: int = 128
    ranks: int = 512
    layouts: int = 15


@dataclass(frozen=True, slots=True, eq=False)
class DecodeView:
    """The beginning of the buffers, as the forward pass of one size takes it.

    Args:
        ids: int64 ``[1, rows]``.
        positions: int64 ``[1, rows]``.
        paged: for attention.
        step: for layers with adapters.
    """

    ids: Tensor
    positions: Tensor
    paged: PagedBatch
    step: ForwardContext


class BufferedForwardContext(ForwardContext):
    """A step whose plans lie in buffers."""

    def __init__(self, plans: Sequence[BufferedPlan] | None) -> None:
        """Describe a step.

        Args:
            plans: of every layer; ``None`` for steps in which no row has an adapter.
        """
        super().__init__(())
        self._buffered = plans

    def plan(self, site: int, tokens: int | None = None) -> LoraPlan | None:
        """Return the plan of a linear layer; sites that work by hooks have later numbers."""
        if self._buffered is None or site >= len(self._buffered):
            return None
        return self._buffered[site]


class DecodeBuffers:
    """Device memory of one decoding step, and the host's copy of it.

    Args:
        cache: whose last block belongs to no row.
        sites: layers with adapters.
        sizes: what there is room for.
        kernel: attends to the cache.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        sites: int,
        sizes: DecodeSizes,
        kernel: PagedAttention,
    ) -> None:
        self.sizes = sizes
        self._cache, self._kernel = cache, kernel
        device, most, size = cache.keys[0].device, sizes.rows[-1], cache.block_size
        self._row_pages = -(-sizes.positions // size)
        self._plans = PlanBuffers(
            device,
            max_tokens=most,
            max_slices=sizes.parts,
            max_ranks=sizes.ranks,
            tables=sizes.layouts + 1,
            layers=sites,
        )
        #: ids, positions and places that are written to, [3, rows]
        self._tokens = _Mirror(np.zeros((3, most), np.int64), device)
        self._contexts = _Mirror(np.zeros(most, np.int32), device)
        self._pages = _Mirror(np.zeros((most, self._row_pages), np.int32), device)
        self._firsts = torch.arange(most, dtype=torch.int32, device=device) * self._row_pages
        scratch = len(cache.keys[0]) - 1
        self._inert = scratch, scratch * size + np.arange(most) % size

    def size_for(self, rows: int) -> int | None:
        """Return the size that so many rows are filled up to, if there is one."""
        return next((size for size in self.sizes.rows if size >= rows), None)

    def fits(self, rows: Sequence[DecodeRow], plans: Sequence[LoraPlan | None]) -> bool:
        """Return whether a step has room.

        Args:
            rows: of the step.
            plans: of every layer; ``None`` where no row has a part.
        """
        return (
            self.size_for(len(rows)) is not None
            and max((len(row.blocks) for row in rows), default=0) <= self._row_pages
            and self._plans.fits(plans)
        )

    def fill(self, rows: Sequence[DecodeRow], plans: Sequence[LoraPlan | None]) -> None:
        """Write a step and bring it to the device; every row beyond is made inert.

        Args:
            rows: of the step, as ``fits`` accepts them.
            plans: of every layer.
        """
        ids, positions, writes = self._tokens.host
        contexts, pages = self._contexts.host, self._pages.host
        block, places = self._inert
        count, size = len(rows), self._cache.block_size
        ids[count:], positions[count:], writes[count:] = 0, 0, places[count:]
        contexts[count:], pages[count:, 0] = 1, block
        for index, row in enumerate(rows):
            ids[index], positions[index] = row.token, row.position
            writes[index] = row.blocks[row.position // size] * size + row.position % size
            contexts[index] = row.position + 1
            pages[index, : len(row.blocks)] = row.blocks
        for mirror in (self._tokens, self._contexts, self._pages):
            mirror.send()
        self._plans.fill(plans)

    def view(self, size: int, *, adapted: bool) -> DecodeView:
        """Return what the forward pass of ``size`` rows takes.

        Args:
            size: one of the sizes.
            adapted: whether layers look for plans at all.
        """
        ids, positions, writes = self._tokens.device[:, :size]
        pages = PageTable(
            self._pages.device.flatten(),
            self._firsts[:size],
            self._contexts.device[:size],
            self._cache.block_size,
        )
        decode = DecodeTokens(self._firsts[:size], pages, self._kernel)
        layers = range(len(self._plans.groups))
        plans = [BufferedPlan(self._plans, layer) for layer in layers] if adapted else None
        return DecodeView(
            ids.unsqueeze(0),
            positions.unsqueeze(0),
            PagedBatch(self._cache, (), writes, decode),
            BufferedForwardContext(plans),
        )


class _Mirror:
    """An array on the host and its copy on the device, at one address each."""

    def __init__(self, host: NDArray[Any], device: torch.device) -> None:
        self.host = host
        self.device = torch.from_numpy(host).to(device, copy=True)

    def send(self) -> None:
        """Bring the host's values to the device."""
        self.device.copy_(torch.from_numpy(self.host))
