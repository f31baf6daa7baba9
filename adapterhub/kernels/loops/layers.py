"""What stands between the products of a decoder layer, one pass over memory each, in bfloat16.

Every step rounds where transformers' modules round, so that results agree to the last bits.
"""

import numpy as np
from numba import njit

from adapterhub.kernels.loops.attention import exponential
from adapterhub.kernels.loops.bfloat16 import narrow, widen
from adapterhub.kernels.loops.lora import FAST


@njit(fastmath=FAST, nogil=True, cache=True)
def add_and_normalize(x, added, weight, epsilon, out):
    """Add ``added`` to ``x`` in place, then write the root-mean-square norm of it.

    Args:
        x: ``[tokens, width]``.
        added: shaped as ``x``, or ``[0, width]`` to add nothing.
        weight: ``[width]``.
        epsilon: of the norm.
        out: shaped as ``x``.
    """
    tokens, width = x.shape
    adds = added.shape[0] > 0
    for token in range(tokens):
        squares = np.float32(0.0)
        for k in range(width):
            value = widen(x[token, k])
            if adds:
                bits = narrow(value + widen(added[token, k]))
                x[token, k] = bits
                value = widen(bits)
            squares += value * value
        scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + epsilon)
        for k in range(width):
            normal = widen(narrow(widen(x[token, k]) * scale))
            out[token, k] = narrow(widen(weight[k]) * normal)


@njit(fastmath=FAST, nogil=True, cache=True)
def gate(gates, values):
    """Multiply ``values`` by the SiLU of ``gates``, in place; both ``[tokens, width]``."""
    tokens, width = values.shape
    for token in range(tokens):
        for k in range(width):
            x = widen(gates[token, k])
            small = exponential(-abs(x))
            sigmoid = (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)
            values[token, k] = narrow(widen(narrow(x * sigmoid)) * widen(values[token, k]))


@njit(fastmath=FAST, nogil=True, cache=True)
def rotate_and_store(query, key, value, cosine, sine, places, keys, values):
    """Rotate queries in place, and put rotated keys and values into the cache.

    Args:
        query: ``[tokens, heads, width]``.
        key: ``[tokens, key heads, width]``.
        value: shaped as ``key``.
        cosine: ``[tokens, width]``.
        sine: ``[tokens, width]``.
        places: int64 ``[tokens]``.
        keys: ``[places, key heads, width]``, a layer's whole table.
        values: shaped as ``keys``.
    """
    tokens, heads, width = query.shape
    half = width // 2
    for token in range(tokens):
        place = places[token]
        for head in range(heads):
            for k in range(half):
                low, high = widen(query[token, head, k]), widen(query[token, head, k + half])
                cos, sin = widen(cosine[token, k]), widen(sine[token, k])
                query[token, head, k] = narrow(widen(narrow(low * cos)) - widen(narrow(high * sin)))
                query[token, head, k + half] = narrow(
                    widen(narrow(high * cos)) + widen(narrow(low * sin))
                )
        for head in range(key.shape[1]):
            for k in range(half):
                low, high = widen(key[token, head, k]), widen(key[token, head, k + half])
                cos, sin = widen(cosine[token, k]), widen(sine[token, k])
                keys[place, head, k] = narrow(widen(narrow(low * cos)) - widen(narrow(high * sin)))
                keys[place, head, k + half] = narrow(
                    widen(narrow(high * cos)) + widen(narrow(low * sin))
                )
            for k in range(width):
                values[place, head, k] = value[token, head, k]
