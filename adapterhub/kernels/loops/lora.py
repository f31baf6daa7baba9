"""Segmented low-rank products, one token after the other."""

import numpy as np
from numba import prange

from adapterhub.kernels.loops.compiling import compiled
from adapterhub.kernels.loops.precision import narrow, widen


@compiled(parallel=True)
def add_single_tokens(y, x, a, b, tokens, firsts, rows, weights):
    """Add the products of single tokens; see ``lora_rows_cpu``."""
    width, out = x.shape[1], y.shape[1]
    for index in prange(tokens.shape[0]):
        token, run = tokens[index, 0], tokens[index, 1]
        wide = np.empty(width, np.float32)
        for k in range(width):
            wide[k] = widen(x[token, k])
        total = np.empty(out, np.float32)
        for o in range(out):
            total[o] = widen(y[token, o])
        for part in range(firsts[run], firsts[run + 1]):
            for row in range(rows[part, 0], rows[part, 0] + rows[part, 1]):
                inner = np.float32(0.0)
                for k in range(width):
                    inner += widen(a[row, k]) * wide[k]
                inner *= weights[part]
                for o in range(out):
                    total[o] += inner * widen(b[row, o])
        for o in range(out):
            y[token, o] = narrow(total[o], y[token, o])
