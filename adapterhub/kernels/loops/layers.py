"""What stands between the products of a decoder layer, one pass over memory each.

Every step rounds where transformers' modules round, so that results agree to the last bits.
"""

import numpy as np

from adapterhub.kernels.loops.attention import exponential
from adapterhub.kernels.loops.compiling import compiled, inlined
from adapterhub.kernels.loops.precision import narrow, widen


@compiled()
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
                bits = narrow(value + widen(added[token, k]), x[token, k])
                x[token, k] = bits
                value = widen(bits)
            squares += value * value
        scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + epsilon)
        for k in range(width):
            normal = widen(narrow(widen(x[token, k]) * scale, x[token, k]))
            out[token, k] = narrow(widen(weight[k]) * normal, x[token, k])


@compiled()
def gate(gates, values):
    """Multiply ``values`` by the SiLU of ``gates``, in place; both ``[tokens, width]``."""
    tokens, width = values.shape
    for token in range(tokens):
        for k in range(width):
            like = values[token, k]
            x = widen(gates[token, k])
            small = exponential(-abs(x))
            sigmoid = (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)
            values[token, k] = narrow(
                widen(narrow(x * sigmoid, like)) * widen(values[token, k]), like
            )


@compiled()
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
    for token in range(tokens):
        place = places[token]
        for head in range(heads):
            _rotate(query[token, head], cosine[token], sine[token], query[token, head])
        for head in range(key.shape[1]):
            _rotate(key[token, head], cosine[token], sine[token], keys[place, head])
            for k in range(width):
                values[place, head, k] = value[token, head, k]


@inlined()
def _rotate(vector, cosine, sine, out):
    """Turn pairs of a vector ``[width]``, as transformers' ``apply_rotary_pos_emb`` does."""
    half = vector.shape[0] // 2
    for k in range(half):
        like = vector[k]
        low, high = widen(vector[k]), widen(vector[k + half])
        turned = widen(narrow(low * widen(cosine[k]), like)) - widen(
            narrow(high * widen(sine[k]), like)
        )
        other = widen(narrow(high * widen(cosine[k + half]), like)) + widen(
            narrow(low * widen(sine[k + half]), like)
        )
        out[k] = narrow(turned, like)
        out[k + half] = narrow(other, like)
