"""Decoding steps captured as CUDA graphs, one for each of a few numbers of rows.

A step of a small batch is hundreds of launches, which a CPU issues more slowly than a GPU does
them. A graph is issued at once. It repeats launches with the same addresses and grids, so all
that varies, which rows use which adapters and where their positions lie, is data in
``DecodeBuffers``, and adapters that come and go change what lies in tables that stay.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from adapterhub.engine.decode_buffers import DecodeBuffers, DecodeRow, DecodeSizes
from adapterhub.engine.forward_context import set_forward_context
from adapterhub.kernels.choice import choose_paged_attention, has_triton

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PretrainedConfig

    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.forward_context import ForwardContext
    from adapterhub.engine.scheduler import ScheduledChunk
    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.attention.paged import PagedBatch
    from adapterhub.kernels.lora.plan import LoraKernel

_LOG = logging.getLogger(__name__)

#: Maps ids and positions ``[1, tokens]`` and the step's rows to hidden states.
Forward: TypeAlias = "Callable[[Tensor, Tensor, PagedBatch], Tensor]"
#: Makes of a computation one that repeats it, and returns what it returned.
Record: TypeAlias = "Callable[[Callable[[], Tensor]], Callable[[], Tensor]]"

#: Times that a step is computed before it is captured, so that every program is compiled.
_WARM_UP = 2
#: Position embeddings whose frequencies depend on values, which a graph can't.
_VARYING_ROPE = frozenset({"dynamic", "longrope"})


class DecodeGraphs:
    """Steps in which every row has one token, repeated from recordings.

    Args:
        forward: of the backbone.
        buffers: that it reads when recorded.
        sites: layers with adapters.
        record: makes the recording; ``CudaRecorder`` but in tests.
    """

    def __init__(
        self, forward: Forward, buffers: DecodeBuffers, sites: int, record: Record
    ) -> None:
        self._forward, self._buffers, self._record = forward, buffers, record
        self._sites = range(sites)
        self._replays: dict[tuple[int, bool], Callable[[], Tensor]] = {}
        self._failed = False

    def __call__(self, rows: Sequence[DecodeRow], step: ForwardContext) -> Tensor | None:
        """Return the hidden states ``[rows, hidden]``, valid until the next call.

        Args:
            rows: in the order of the batch.
            step: which adapters they use.

        Returns:
            ``None`` where the step has no room in the buffers, or can't be recorded.
        """
        plans = [step.plan(site) for site in self._sites]
        size = self._buffers.size_for(len(rows))
        if self._failed or size is None or not self._buffers.fits(rows, plans):
            return None
        self._buffers.fill(rows, plans)
        adapted = any(plan is not None for plan in plans)
        try:
            replay = self._replay(size, adapted=adapted)
        except RuntimeError as error:
            _LOG.warning("decoding steps are not captured as CUDA graphs from now on: %s", error)
            self._failed = True
            return None
        return replay()[: len(rows)]

    def prepare(self) -> None:
        """Record all sizes now, the largest first, so that no request waits for it.

        Raises:
            RuntimeError: when the forward pass can't be recorded.
        """
        self._buffers.fill((), [None for _ in self._sites])
        for size in reversed(self._buffers.sizes.rows):
            for adapted in (True, False):
                self._replay(size, adapted=adapted)

    def _replay(self, size: int, *, adapted: bool) -> Callable[[], Tensor]:
        key = (size, adapted)
        if key not in self._replays:
            view = self._buffers.view(size, adapted=adapted)

            def compute() -> Tensor:
                with torch.no_grad(), set_forward_context(view.step):
                    return self._forward(view.ids, view.positions, view.paged)

            self._replays[key] = self._record(compute)
        return self._replays[key]


class CudaRecorder:
    """Captures computations as CUDA graphs that share their memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a computation, whose inputs stay where they are.

        Raises:
            RuntimeError: when it does what a graph can't hold, such as waiting for a value.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may go on using the device, as when they load adapters
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = compute()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def decode_graphs(
    config: PretrainedConfig,
    cache: KeyValueCache,
    sites: int,
    kernel: LoraKernel,
    forward: Forward,
    settings: EngineConfig,
) -> DecodeGraphs | None:
    """Return what replays decoding steps, or ``None`` where they have to be computed each time.

    Args:
        config: of the backbone.
        cache: whose last block no row gets.
        sites: layers with adapters.
        kernel: of those layers.
        forward: of the backbone.
        settings: of the engine.
    """
    if not cache.keys:
        # nothing is decoded
        return None
    device = cache.keys[0].device.type
    if not has_triton(device):
        return None
    from adapterhub.kernels.lora.triton import TritonLoraKernel

    if not isinstance(kernel, TritonLoraKernel) or not can_capture(config):
        _LOG.warning("decoding steps of this backbone can't be captured as CUDA graphs")
        return None
    buffers = DecodeBuffers(cache, sites, sizes_for(settings), choose_paged_attention(device))
    return DecodeGraphs(forward, buffers, sites, CudaRecorder())


def sizes_for(settings: EngineConfig) -> DecodeSizes:
    """Return buffers that hold all steps of an engine but those with unusually many adapters."""
    most = settings.max_num_seqs
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return DecodeSizes(
        rows=(*powers, most),
        positions=settings.kv_cache_tokens,
        parts=4 * most,
        ranks=settings.rank_slots,
    )


def can_capture(config: Any) -> bool:
    """Return whether a backbone's forward pass does the same whatever the values are."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # some architectures have parameters of their own for each type of layer
    kinds = {
        each.get("rope_type")
        for each in (parameters, *parameters.values())
        if isinstance(each, dict)
    }
    return not kinds & _VARYING_ROPE and not getattr(config, "num_experts", None)


def replay(
    graphs: DecodeGraphs | None,
    pieces: Sequence[ScheduledChunk],
    step: ForwardContext,
    adapter_manager: AdapterManager,
) -> Tensor | None:
    """Return the hidden states of a step, or ``None`` where it has to be computed.

    That is also where a row has more tokens than one, or uses DoRA, whose factors of the
    layers' own output are no data in a buffer.

    Args:
        graphs: of the engine, where it has any.
        pieces: of the step.
        step: which adapters they use.
        adapter_manager: knows the adapters.
    """
    if graphs is None or any(piece.end - piece.start != 1 for piece in pieces):
        return None
    if any(adapter_manager.is_dora(key) for piece in pieces for key, _ in piece.sequence.adapters):
        return None
    rows = [
        DecodeRow(row.tokens(piece.start, piece.end)[0], piece.start, row.blocks)
        for piece in pieces
        for row in (piece.sequence,)
    ]
    return graphs(rows, step)
