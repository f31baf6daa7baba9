"""The segmented low-rank product on NVIDIA GPUs; see ``code/lora.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import triton

from adapterhub.kernels.triton.code import lora
from adapterhub.kernels.triton.operands import on_device_of, precision, widens
from adapterhub.kernels.triton.plan_buffers import TILE, BufferedPlan, buffered

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.lora_rows import LoraPlan

#: Rank rows at a time, the least that a tensor core multiplies.
RANKS = 16
#: Values of the input at a time, and how many times a program does that.
STEP, STEPS = 64, 16
#: Outputs of a program.
OUT = 128


class TritonKernel:
    """Segmented product for NVIDIA GPUs; see ``LoraKernel``."""

    def __init__(self) -> None:
        # a step asks with the same plan at every layer
        self._buffered: WeakKeyDictionary[LoraPlan, BufferedPlan] = WeakKeyDictionary()

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add to ``y`` in place; a ``BufferedPlan`` is used as it lies in its buffers."""
        held = plan if isinstance(plan, BufferedPlan) else self._buffered.get(plan)
        if held is None:
            held = self._buffered[plan] = buffered(plan, y.device)
        with on_device_of(y):
            expand_(y, shrink(x, a, held), b, held)


def shrink(x: Tensor, a: Tensor, plan: BufferedPlan) -> Tensor:
    """Return ``w (x Aᵀ)``, float32 ``[ranges of the input, sorted tokens, ranks]``.

    Only what ``expand_`` reads is written.

    Args:
        x: ``[tokens, in]`` in the compute type, contiguous.
        a: ``[rank rows, in]`` in the compute type.
        plan: which tokens use which rows.
    """
    (tokens, width), held = x.shape, plan.buffers
    ranges = triton.cdiv(width, STEP * STEPS)
    inner = torch.empty(ranges, tokens, held.ranks, dtype=torch.float32, device=x.device)
    lora.shrink[(min(tokens, held.tokens), ranges)](
        x,
        a,
        inner,
        plan.group,
        held.tables,
        held.table_words,
        held.order_at,
        held.parts_at,
        held.weights_at,
        width,
        inner.stride(0),
        inner.stride(1),
        TOKENS=TILE,
        RANKS=RANKS,
        STEP=STEP,
        STEPS=min(STEPS, triton.cdiv(width, STEP)),
        WIDE=widens(x.dtype),
        PRECISION=precision(x.dtype),
    )
    return inner


def expand_(y: Tensor, inner: Tensor, b: Tensor, plan: BufferedPlan) -> None:
    """Add ``inner B`` to ``y`` in place.

    Args:
        y: ``[tokens, out]`` in the compute type, contiguous.
        inner: as ``shrink`` returns it.
        b: ``[rank rows, out]`` in the compute type, scales folded in.
        plan: which tokens use which rows.
    """
    (tokens, width), held = y.shape, plan.buffers
    lora.expand[(min(tokens, held.tokens), triton.cdiv(width, OUT))](
        y,
        b,
        inner,
        plan.group,
        held.tables,
        held.table_words,
        held.order_at,
        held.parts_at,
        width,
        inner.stride(0),
        inner.stride(1),
        TOKENS=TILE,
        RANKS=RANKS,
        OUT=OUT,
        RANGES=len(inner),
        PRECISION=precision(y.dtype),
    )
