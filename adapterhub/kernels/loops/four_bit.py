"""Weights in 4 bits, expanded row by row where they are used."""

import numpy as np
from numba import prange

from adapterhub.kernels.loops.compiling import compiled, inlined


@inlined
def _expand_row(codes, scales, pairs, output, wide):
    """Write the weights of one output to ``wide``; a byte's codes are looked up together."""
    blocks = scales.shape[1]
    half = codes.shape[1] // blocks
    for block in range(blocks):
        scale = scales[output, block]
        for place in range(block * half, (block + 1) * half):
            code = codes[output, place]
            wide[2 * place] = pairs[code, 0] * scale
            wide[2 * place + 1] = pairs[code, 1] * scale


@compiled(parallel=True)
def expand(codes, scales, pairs, weight):
    """Write all weights ``[out, in]``; see ``looped_four_bit``."""
    for output in prange(codes.shape[0]):
        _expand_row(codes, scales, pairs, output, weight[output])


@compiled(parallel=True)
def multiply(x, codes, scales, pairs, y):
    """Write the products ``[rows, out]`` of rows ``x`` ``[rows, in]``; see ``looped_four_bit``."""
    for output in prange(codes.shape[0]):
        wide = np.empty(x.shape[1], np.float32)
        _expand_row(codes, scales, pairs, output, wide)
        for row in range(x.shape[0]):
            total = np.float32(0.0)
            for k in range(x.shape[1]):
                total += wide[k] * x[row, k]
            y[row, output] = total
