"""Decoding steps captured as CUDA graphs, one for each of a few batch sizes.

A step of a small batch is hundreds of kernel launches, which a CPU issues more slowly than a GPU
executes them; a graph is launched at once. It repeats kernels with the same addresses and grids,
so all that varies, such as adapters and positions, is data in ``DecodeBuffers`` and in the tables
of the adapted layers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from adapterhub.engine.decode_buffers import DecodeBuffers, DecodeSequence, DecodeSizes
from adapterhub.engine.forward_context import set_forward_context
from adapterhub.kernels.choice import choose_paged_attention, has_triton

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PretrainedConfig

    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.forward_context import ForwardContext
    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.attention.paged import PagedBatch
    from adapterhub.kernels.lora.plan import LoraKernel

_LOG = logging.getLogger(__name__)

#: Maps token ids and positions [1, num_tokens] and their places to hidden states.
Forward: TypeAlias = "Callable[[Tensor, Tensor, PagedBatch], Tensor]"
#: Captures a computation; returns a function that repeats it.
Capture: TypeAlias = "Callable[[Callable[[], Tensor]], Callable[[], Tensor]]"

#: Times that a step is computed before it is captured, so that every kernel is compiled.
_WARM_UP = 2
#: Position embeddings whose frequencies depend on values, which a graph cannot express.
_VARYING_ROPE = frozenset({"dynamic", "longrope"})


class DecodeGraphs:
    """Captured steps in which every sequence has one token."""

    def __init__(
        self, forward: Forward, buffers: DecodeBuffers, num_layers: int, capture: Capture
    ) -> None:
        self._forward, self._buffers, self._capture = forward, buffers, capture
        self._layers = range(num_layers)
        self._replays: dict[tuple[int, bool], Callable[[], Tensor]] = {}
        self._failed = False

    def __call__(
        self, sequences: Sequence[DecodeSequence], context: ForwardContext
    ) -> Tensor | None:
        """Return the hidden states ``[num_sequences, hidden_size]``, valid until the next call.

        Returns:
            ``None`` if the step does not fit into the buffers or cannot be captured.
        """
        plans = [context.plan(layer) for layer in self._layers]
        size = self._buffers.batch_size(len(sequences))
        if self._failed or size is None or not self._buffers.fits(sequences, plans):
            return None
        self._buffers.fill(sequences, plans)
        adapted = any(plan is not None for plan in plans)
        try:
            replay = self._replay(size, adapted=adapted)
        except RuntimeError as error:
            _LOG.warning("CUDA graphs are disabled, because capturing a step failed: %s", error)
            self._failed = True
            return None
        return replay()[: len(sequences)]

    def captured(self, num_sequences: int, *, adapted: bool) -> Callable[[], Tensor] | None:
        """Return the replay of steps of so many sequences, or ``None`` if there is none yet.

        For measurements: what a step takes beyond its replay is overhead.
        """
        size = self._buffers.batch_size(num_sequences)
        return None if size is None else self._replays.get((size, adapted))

    def prepare(self) -> None:
        """Capture all batch sizes, the largest first, so that no request waits for it."""
        self._buffers.fill((), [None for _ in self._layers])
        for size in reversed(self._buffers.sizes.batch_sizes):
            for adapted in (True, False):
                self._replay(size, adapted=adapted)

    def _replay(self, size: int, *, adapted: bool) -> Callable[[], Tensor]:
        key = (size, adapted)
        if key not in self._replays:
            inputs = self._buffers.inputs(size, adapted=adapted)

            def compute() -> Tensor:
                with torch.no_grad(), set_forward_context(inputs.context):
                    return self._forward(inputs.ids, inputs.positions, inputs.paged)

            self._replays[key] = self._capture(compute)
        return self._replays[key]


class CudaGraphCapture:
    """Captures computations as CUDA graphs that share a memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a computation with inputs at fixed addresses."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile, for example to load adapters
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = compute()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def decode_graphs(
    config: PretrainedConfig,
    cache: KeyValueCache,
    num_layers: int,
    kernel: LoraKernel,
    forward: Forward,
    engine_config: EngineConfig,
) -> DecodeGraphs | None:
    """Return the CUDA graphs of a backbone, or ``None`` if its steps cannot be captured."""
    if not cache.keys:
        # nothing is decoded
        return None
    device = cache.keys[0].device.type
    if not has_triton(device):
        return None
    from adapterhub.kernels.lora.triton import TritonLoraKernel

    if not isinstance(kernel, TritonLoraKernel) or not can_capture(config):
        _LOG.warning("CUDA graphs are disabled, because this backbone cannot be captured")
        return None
    attention = choose_paged_attention(device)
    buffers = DecodeBuffers(cache, num_layers, sizes_for(engine_config), attention)
    return DecodeGraphs(forward, buffers, num_layers, CudaGraphCapture())


def sizes_for(config: EngineConfig) -> DecodeSizes:
    """Return buffers for all steps of an engine except those with unusually many adapters."""
    most = config.max_num_seqs
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return DecodeSizes(
        batch_sizes=(*powers, most),
        max_length=config.kv_cache_tokens,
        max_slices=4 * most,
        max_ranks=config.rank_slots,
    )


def can_capture(config: Any) -> bool:
    """Return whether a backbone launches the same kernels whatever the values are."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # some architectures have parameters for each type of layer
    kinds = {
        each.get("rope_type")
        for each in (parameters, *parameters.values())
        if isinstance(each, dict)
    }
    return not kinds & _VARYING_ROPE and not getattr(config, "num_experts", None)
