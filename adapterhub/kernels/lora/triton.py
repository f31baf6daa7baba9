"""Segmented LoRA shrink and expand in Triton, for batches in which each token has its own adapters.

A program works on one *tile*: up to ``TILE`` tokens that use the same rank slices. A grid has one
program per possible tile, i.e. per token, and programs without a tile return at once. So grids
depend on the number of tokens alone, never on their adapters, and a CUDA graph can capture them.

The result of a token does not depend on its batch: sums have a fixed order, by rank slots and by
ranges of the input, and there are no atomic additions.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from adapterhub.kernels.lora.plan import LoraPlan
from adapterhub.kernels.lora.plan_buffers import TILE, BufferedPlan, buffered
from adapterhub.kernels.triton_support import precision, widens

#: Number of rank slots per product, the least that a tensor core multiplies.
_RANKS = 16
#: Number of inputs per product, and of products per program.
_STEP, _STEPS = 64, 16
#: Number of outputs of a program.
_OUT = 128

#: Arguments that differ between steps; no kernel is compiled again for one of them.
_BUFFER_SIZES = ("table_words", "order_at", "slices_at", "weights_at", "inner_split", "inner_token")
_BUFFER_POINTERS = ("group", "tables")


class TritonLoraKernel:
    """``LoraKernel`` for NVIDIA GPUs."""

    def __init__(self) -> None:
        # the same plan is used at every layer of a step
        self._buffered: WeakKeyDictionary[LoraPlan, BufferedPlan] = WeakKeyDictionary()

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add the product to ``y`` in place; see ``LoraKernel``.

        A ``BufferedPlan`` is read from its own buffers.
        """
        if not isinstance(plan, BufferedPlan):
            if plan not in self._buffered:
                self._buffered[plan] = buffered(plan, y.device)
            plan = self._buffered[plan]
        buffers, (tokens, width) = plan.buffers, x.shape
        tiles, ranges = min(tokens, buffers.max_tokens), triton.cdiv(width, _STEP * _STEPS)
        inner = torch.empty(ranges, tokens, buffers.max_ranks, dtype=torch.float32, device=x.device)
        tables = (plan.group, buffers.tables, buffers.table_words)
        strides = (inner.stride(0), inner.stride(1))
        # the current GPU may be another one
        with torch.cuda.device_of(y):
            shrink_kernel[(tiles, ranges)](
                x,
                a,
                inner,
                *tables,
                buffers.order_at,
                buffers.slices_at,
                buffers.weights_at,
                width,
                *strides,
                TOKENS=TILE,
                RANKS=_RANKS,
                STEP=_STEP,
                STEPS=min(_STEPS, triton.cdiv(width, _STEP)),
                WIDE=widens(x.dtype),
                PRECISION=precision(x.dtype),
            )
            expand_kernel[(tiles, triton.cdiv(y.shape[1], _OUT))](
                y,
                b,
                inner,
                *tables,
                buffers.order_at,
                buffers.slices_at,
                y.shape[1],
                *strides,
                TOKENS=TILE,
                RANKS=_RANKS,
                OUT=_OUT,
                RANGES=ranges,
                PRECISION=precision(y.dtype),
            )


@triton.jit(do_not_specialize=_BUFFER_SIZES, do_not_specialize_on_alignment=_BUFFER_POINTERS)
def shrink_kernel(
    x,  # [num_tokens, width]
    a,  # [rank_slots, width]
    inner,  # float32 [num_ranges, num_sorted_tokens, num_ranks], written
    group,  # int32 [1], table of the layer
    tables,  # int32, see plan_buffers
    table_words,  # size of a table
    order_at,  # offset of the sorted tokens in a table
    slices_at,  # offset of the rank slices in a table
    weights_at,  # offset of the weights of the slices in a table
    width,  # number of inputs
    inner_split,  # stride between ranges
    inner_token,  # stride between tokens
    TOKENS: tl.constexpr,  # tokens in a tile
    RANKS: tl.constexpr,  # rank slots per product
    STEP: tl.constexpr,  # inputs per product
    STEPS: tl.constexpr,  # products per range of the input
    WIDE: tl.constexpr,  # whether operands are widened to float32 before a product
    PRECISION: tl.constexpr,
):
    """Write ``w (x Aᵀ)`` of one range of the input, for one tile."""
    table = tables + tl.load(group).to(tl.int64) * table_words
    tile = table + tl.program_id(0) * 4
    count = tl.load(tile + 1)
    if count > 0:
        first = tl.load(tile)
        member = tl.arange(0, TOKENS)
        inside = member < count
        token = tl.load(table + order_at + first + member, mask=inside, other=0).to(tl.int64)
        start = tl.program_id(1) * STEP * STEPS
        column = 0
        for index in range(tl.load(tile + 2), tl.load(tile + 3)):
            slot = tl.load(table + slices_at + 2 * index).to(tl.int64)
            rank = tl.load(table + slices_at + 2 * index + 1)
            weight = tl.load(table + weights_at + index).to(tl.float32, bitcast=True)
            for low in range(0, rank, RANKS):
                ranks = low + tl.arange(0, RANKS)
                total = tl.zeros((TOKENS, RANKS), tl.float32)
                for step in range(STEPS):
                    k = start + step * STEP + tl.arange(0, STEP)
                    values = tl.load(
                        x + token[:, None] * width + k[None, :],
                        mask=inside[:, None] & (k[None, :] < width),
                        other=0.0,
                    )
                    factors = tl.load(
                        a + (slot + ranks[None, :]) * width + k[:, None],
                        mask=(ranks[None, :] < rank) & (k[:, None] < width),
                        other=0.0,
                    )
                    if WIDE:
                        values = values.to(tl.float32)
                        factors = factors.to(tl.float32)
                    total = tl.dot(values, factors, total, input_precision=PRECISION)
                tl.store(
                    inner
                    + tl.program_id(1) * inner_split
                    + (first + member[:, None]) * inner_token
                    + column
                    + ranks[None, :],
                    total * weight,
                    mask=inside[:, None] & (ranks[None, :] < rank),
                )
            column += rank


@triton.jit(do_not_specialize=_BUFFER_SIZES, do_not_specialize_on_alignment=_BUFFER_POINTERS)
def expand_kernel(
    y,  # [num_tokens, width]
    b,  # [rank_slots, width]
    inner,  # result of shrink_kernel
    group,
    tables,
    table_words,
    order_at,
    slices_at,
    width,  # number of outputs
    inner_split,
    inner_token,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    OUT: tl.constexpr,  # outputs of a program
    RANGES: tl.constexpr,  # ranges of the input to sum
    PRECISION: tl.constexpr,
):
    """Add ``inner B`` to ``y`` in place, for one tile and one range of the output."""
    table = tables + tl.load(group).to(tl.int64) * table_words
    tile = table + tl.program_id(0) * 4
    count = tl.load(tile + 1)
    if count > 0:
        first = tl.load(tile)
        member = tl.arange(0, TOKENS)
        inside = member < count
        token = tl.load(table + order_at + first + member, mask=inside, other=0).to(tl.int64)
        n = tl.program_id(1) * OUT + tl.arange(0, OUT)
        total = tl.zeros((TOKENS, OUT), tl.float32)
        column = 0
        for index in range(tl.load(tile + 2), tl.load(tile + 3)):
            slot = tl.load(table + slices_at + 2 * index).to(tl.int64)
            rank = tl.load(table + slices_at + 2 * index + 1)
            for low in range(0, rank, RANKS):
                ranks = low + tl.arange(0, RANKS)
                used = inside[:, None] & (ranks[None, :] < rank)
                at = inner + (first + member[:, None]) * inner_token + column + ranks[None, :]
                between = tl.load(at, mask=used, other=0.0)
                for split in range(1, RANGES):
                    between += tl.load(at + split * inner_split, mask=used, other=0.0)
                factors = tl.load(
                    b + (slot + ranks[:, None]) * width + n[None, :],
                    mask=(ranks[:, None] < rank) & (n[None, :] < width),
                    other=0.0,
                )
                total = tl.dot(between, factors.to(tl.float32), total, input_precision=PRECISION)
            column += rank
        out = y + token[:, None] * width + n[None, :]
        used = inside[:, None] & (n[None, :] < width)
        before = tl.load(out, mask=used, other=0.0)
        tl.store(out, (before.to(tl.float32) + total).to(y.dtype.element_ty), mask=used)
