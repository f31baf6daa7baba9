"""Segmented low-rank products, one token after the other."""

import numpy as np
from numba import njit, prange

from adapterhub.kernels.loops.bfloat16 import narrow, widen

#: Sums in any order, so that they vectorise; NaN and infinity stay what they are.
FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(parallel=True, fastmath=FAST, nogil=True, cache=True)
def add_bfloat16(y, x, a, b, tokens, firsts, rows, weights):
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
            y[token, o] = narrow(total[o])


@njit(parallel=True, fastmath=FAST, nogil=True, cache=True)
def add_float32(y, x, a, b, tokens, firsts, rows, weights):
    """Add the products of single tokens; see ``lora_rows_cpu``."""
    width, out = x.shape[1], y.shape[1]
    for index in prange(tokens.shape[0]):
        token, run = tokens[index, 0], tokens[index, 1]
        for part in range(firsts[run], firsts[run + 1]):
            for row in range(rows[part, 0], rows[part, 0] + rows[part, 1]):
                inner = np.float32(0.0)
                for k in range(width):
                    inner += a[row, k] * x[token, k]
                inner *= weights[part]
                for o in range(out):
                    y[token, o] += inner * b[row, o]
