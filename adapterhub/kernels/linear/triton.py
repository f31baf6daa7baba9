"""4-bit linear layers that dequantize in registers, for a few tokens, in Triton.

bitsandbytes 0.50 has a fused product on NVIDIA GPUs for up to 4 tokens and, by tables of its own,
for some shapes above; otherwise it writes the dequantized weight to memory first
(``bitsandbytes/backends/cuda/ops.py``, ``_gemm_4bit_use_custom_cuda``).

The layout is that of bitsandbytes: the codes of ``W [out, in]`` lie in the order of its elements,
two per byte, the first in the upper half (``bitsandbytes/backends/default/ops.py``,
``_dequantize_4bit_compute``). A weight is the code book's entry of its code times the scale of its
block of consecutive elements, rounded to the compute type.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from typing import Any, TypeGuard

import torch
import triton
import triton.language as tl
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from adapterhub.kernels.linear.packed_layer import PackedLayer
from adapterhub.kernels.triton_support import precision, widens

#: Largest number of tokens that the fused product is used for.
MAX_TOKENS = 32
#: Number of outputs of a program.
_OUT = 64
#: Smallest number of programs that a product is split into, if its input is long enough.
_MIN_PROGRAMS = 256
#: Number of elements of a program that sums ranges.
_SIZE = 1024


class TritonLinear4bit(PackedLayer):
    """A 4-bit layer whose few-token products are computed by Triton.

    Args:
        layer: 4-bit layer, which is left unchanged.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__(layer)

    @staticmethod
    def supports(module: nn.Module) -> TypeGuard[Linear4bit]:
        """Return whether a layer is a 4-bit one with unquantized scales and whole blocks."""
        if not isinstance(module, Linear4bit):
            return False
        state = module.weight.quant_state
        return (
            state is not None
            and not state.nested
            and module.weight.dtype == torch.uint8
            and module.in_features % state.blocksize == 0
            and tuple(state.shape) == (module.out_features, module.in_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        (layer,) = self._layer
        state = layer.weight.quant_state
        if x.numel() > MAX_TOKENS * self.in_features:
            return layer(x)
        flat = x.reshape(-1, self.in_features).contiguous().to(state.dtype)
        # the current GPU may be another one
        with torch.cuda.device_of(flat):
            y = multiply_four_bit(flat, layer.weight.data, state, self.bias)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        (layer,) = self._layer
        return bnb_functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)

    def unpack(self) -> Linear4bit:
        """Return the original layer, which was not changed."""
        return self._layer[0]


def multiply_four_bit(x: Tensor, codes: Tensor, state: Any, bias: Tensor | None = None) -> Tensor:
    """Return ``x Wᵀ + bias``, ``[num_tokens, out]`` in the type of ``x``.

    Args:
        x: ``[num_tokens, in]``, contiguous, at most ``MAX_TOKENS`` tokens.
        codes: uint8 codes, two per byte.
        state: bitsandbytes' quantization state of the weight, not nested; its block size divides
            ``in``.
        bias: ``[out]``.
    """
    (tokens, width), out_width = x.shape, int(state.shape[0])
    step = min(state.blocksize, 64)
    steps, programs = width // step, triton.cdiv(out_width, _OUT)
    steps_per_range = triton.cdiv(steps, min(steps, max(1, _MIN_PROGRAMS // programs)))
    ranges = triton.cdiv(steps, steps_per_range)
    sums = torch.empty(ranges, tokens, out_width, dtype=torch.float32, device=x.device)
    multiply_kernel[(programs, ranges)](
        x,
        codes,
        state.absmax,
        state.code,
        sums,
        tokens,
        width,
        out_width,
        steps_per_range,
        TOKENS=16 if tokens <= 16 else 32,
        OUT=_OUT,
        BLOCK=state.blocksize,
        STEP=step,
        WIDE=widens(x.dtype),
        PRECISION=precision(x.dtype),
    )
    y = torch.empty(tokens, out_width, dtype=x.dtype, device=x.device)
    reduce_kernel[(triton.cdiv(y.numel(), _SIZE),)](
        sums,
        y if bias is None else bias,
        y,
        y.numel(),
        out_width,
        ranges,
        SIZE=_SIZE,
        BIASED=bias is not None,
    )
    return y


# compiled once for all numbers of tokens
@triton.jit(do_not_specialize=("tokens", "steps_per_range"))
def multiply_kernel(
    x,  # [num_tokens, width]
    codes,  # uint8 [out_width * width / 2]
    scales,  # float32 [out_width * width / BLOCK]
    book,  # float32 [16], value of each code
    sums,  # float32 [num_ranges, num_tokens, out_width], written
    tokens,  # number of tokens
    width,  # number of inputs, a multiple of STEP
    out_width,  # number of outputs
    steps_per_range,  # products per range of the input
    TOKENS: tl.constexpr,  # power of two, at least tokens
    OUT: tl.constexpr,  # outputs of a program
    BLOCK: tl.constexpr,  # weights that share a scale
    STEP: tl.constexpr,  # inputs per product, a divisor of BLOCK
    WIDE: tl.constexpr,  # whether operands are widened to float32 before a product
    PRECISION: tl.constexpr,
):
    """Write the product of some outputs over one range of the input."""
    n = (tl.program_id(0) * OUT + tl.arange(0, OUT)).to(tl.int64)
    token = tl.arange(0, TOKENS)
    pair = tl.arange(0, STEP // 2)
    real_token, real_out = token[:, None] < tokens, n[:, None] < out_width
    total = tl.zeros((TOKENS, OUT), tl.float32)
    start = tl.program_id(1) * steps_per_range * STEP
    end = tl.minimum(start + steps_per_range * STEP, width)
    for k in range(start, end, STEP):
        first = n[:, None] * width + k
        packed = tl.load(codes + (first >> 1) + pair[None, :], mask=real_out, other=0).to(tl.int32)
        scale = tl.load(scales + first // BLOCK, mask=real_out, other=0.0)
        # even inputs and odd ones are two products, so nothing has to be interleaved
        for odd in tl.static_range(2):
            code = (packed & 15) if odd else (packed >> 4)
            weight = (tl.load(book + code) * scale).to(x.dtype.element_ty)
            values = tl.load(
                x + token[:, None] * width + k + 2 * pair[None, :] + odd, mask=real_token, other=0.0
            )
            if WIDE:
                weight = weight.to(tl.float32)
                values = values.to(tl.float32)
            total = tl.dot(values, tl.trans(weight), total, input_precision=PRECISION)
    at = (tl.program_id(1) * tokens + token[:, None]).to(tl.int64) * out_width + n[None, :]
    tl.store(sums + at, total, mask=real_token & (n[None, :] < out_width))


@triton.jit(do_not_specialize=("elements", "ranges"))
def reduce_kernel(
    sums,  # result of multiply_kernel
    bias,  # [out_width], read if BIASED
    y,  # [num_tokens, out_width], written
    elements,  # number of elements of y
    out_width,  # number of outputs
    ranges,  # number of ranges of the input
    SIZE: tl.constexpr,  # elements of a program
    BIASED: tl.constexpr,
):
    """Sum the ranges in order, add the bias and round to the compute type."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = at < elements
    total = tl.load(sums + at, mask=inside, other=0.0)
    for index in range(1, ranges):
        total += tl.load(sums + index * elements + at, mask=inside, other=0.0)
    if BIASED:
        total += tl.load(bias + at % out_width, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)
