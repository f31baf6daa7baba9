"""Products with packed weights, for a range of output groups, to be called by compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import prange

from adapterhub.kernels import simd
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.numba_support import compiled, inlined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Entries of the description of a layer, an int64 array.
WEIGHT, SCALES, TABLE, BIAS, WIDTH, OUTPUTS, BLOCK = range(7)
#: Length of the description of a layer.
FIELDS = 8


@compiled()
def multiply_groups(
    x: int, tokens: int, layer: NDArray[np.int64], y: int, stride: int, first: int, last: int
) -> None:
    """Write ``y = x Wᵀ + bias`` for the outputs ``16 first`` to ``16 last`` of a layer.

    Args:
        x: Address of the inputs, bfloat16 ``[tokens, width]``, contiguous.
        tokens: Number of tokens.
        layer: Description of the layer: addresses of its packed weight, of its scales (0 if the
            weight is bfloat16), of the value of each code (float32 ``[16]``) and of its bias
            (bfloat16 ``[out]``, 0 for none), its numbers of inputs and outputs and its block size.
        y: Address of the outputs of the whole layer, bfloat16 ``[tokens, out]``.
        stride: Elements of ``y`` from a token to the next.
        first: First group of 16 outputs.
        last: Group after the last one.
    """
    width = layer[WIDTH]
    for group in range(first, last):
        done = 0
        while done < tokens:
            left = tokens - done
            source = x + 2 * done * width
            target = y + 2 * (done * stride + group * GROUP)
            if left >= 8:
                _multiply_block(simd.zeros(8), source, layer, group, target, stride)
                done += 8
            elif left >= 4:
                _multiply_block(simd.zeros(4), source, layer, group, target, stride)
                done += 4
            elif left >= 2:
                _multiply_block(simd.zeros(2), source, layer, group, target, stride)
                done += 2
            else:
                _multiply_block(simd.zeros(1), source, layer, group, target, stride)
                done += 1


@compiled()
def _multiply_block(
    zeros: Any, x: int, layer: NDArray[np.int64], group: int, y: int, stride: int
) -> None:
    """Compute 16 outputs of a block of as many tokens as there are zeros."""
    if layer[SCALES] != 0:
        even, odd = _sums_of_codes(zeros, x, layer, group)
    else:
        even, odd = _sums(zeros, x, layer, group)
    bias = simd.zeros(1)[0]
    if layer[BIAS] != 0:
        bias = simd.load_widened(layer[BIAS] + 2 * group * GROUP)
    simd.store_sums(even, odd, bias, y, 2 * stride)


@inlined
def _sums(zeros: Any, x: int, layer: Any, group: int) -> Any:
    """Return the sums of even and of odd pairs of inputs, with bfloat16 weights."""
    width = layer[WIDTH]
    weight = layer[WEIGHT] + group * width * 2 * GROUP
    even, odd = zeros, zeros
    for pair in range(0, width // 2, 4):
        at, vector = x + 4 * pair, weight + pair * simd.VECTOR
        even = simd.add_products(even, simd.load_bf16(vector), at, 2 * width)
        odd = simd.add_products(odd, simd.load_bf16(vector + 64), at + 4, 2 * width)
        even = simd.add_products(even, simd.load_bf16(vector + 128), at + 8, 2 * width)
        odd = simd.add_products(odd, simd.load_bf16(vector + 192), at + 12, 2 * width)
    return even, odd


@inlined
def _sums_of_codes(zeros: Any, x: int, layer: Any, group: int) -> Any:
    """Return the sums of even and of odd pairs of inputs, with 4-bit weights."""
    width, block = layer[WIDTH], layer[BLOCK]
    words = layer[WEIGHT] + group * width * GROUP // 2
    scales = layer[SCALES] + group * (width // block) * simd.VECTOR
    table = simd.load_f32(layer[TABLE])
    even, odd = zeros, zeros
    for number in range(width // block):
        lower, upper = simd.repeat_halves(simd.load_f32(scales + number * simd.VECTOR))
        for column in range(number * block, (number + 1) * block, 8):
            codes, at = simd.load_i32(words + column * 8), x + 2 * column
            pair = _weights(codes, table, lower, upper)
            even = simd.add_products(even, pair, at, 2 * width)
            pair = _weights(simd.shift_right(codes, 8), table, lower, upper)
            odd = simd.add_products(odd, pair, at + 4, 2 * width)
            pair = _weights(simd.shift_right(codes, 16), table, lower, upper)
            even = simd.add_products(even, pair, at + 8, 2 * width)
            pair = _weights(simd.shift_right(codes, 24), table, lower, upper)
            odd = simd.add_products(odd, pair, at + 12, 2 * width)
    return even, odd


@inlined
def _weights(codes: Any, table: Any, lower: Any, upper: Any) -> Any:
    """Return the pair vector of the lowest 8 bits of each lane, rounded as bitsandbytes does."""
    return simd.round_halves(
        simd.multiply(simd.look_up(table, codes), lower),
        simd.multiply(simd.look_up(table, simd.shift_right(codes, 4)), upper),
    )


@compiled(parallel=True)
def multiply_all(x: int, tokens: int, layer: NDArray[np.int64], y: int, shares: int) -> None:
    """Write ``y = x Wᵀ + bias``, contiguous, with the groups in a number of shares."""
    groups = layer[OUTPUTS] // GROUP
    for share in prange(shares):
        first, last = share * groups // shares, (share + 1) * groups // shares
        multiply_groups(x, tokens, layer, y, layer[OUTPUTS], first, last)
