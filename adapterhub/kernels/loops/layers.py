"""What stands between the products of a decoder layer, one pass over memory each.

Every step rounds where transformers' modules round, so that results agree to the last bits.
Tokens are shared out over the threads; the work of one is a function of its own, because the
compiler vectorises that and not the body of a shared loop.
"""

import numpy as np
from numba import prange

from adapterhub.kernels.loops.attention import exponential
from adapterhub.kernels.loops.compiling import compiled, inlined
from adapterhub.kernels.loops.precision import narrow, widen


@compiled(parallel=True)
def add_and_normalize(x, added, weight, epsilon, out):
    """Add ``added`` to ``x`` in place, then write the root-mean-square norm of it.

    Args:
        x: ``[tokens, width]``.
        added: shaped as ``x``, or ``[0, width]`` to add nothing.
        weight: ``[width]``.
        epsilon: of the norm.
        out: shaped as ``x``.
    """
    adds = added.shape[0] > 0
    for index in prange(x.shape[0]):
        token = np.int64(index)
        if adds:
            _add(x[token], added[token])
        _normalize(x[token], weight, epsilon, out[token])


@compiled(parallel=True)
def gate(gates, values):
    """Multiply ``values`` by the SiLU of ``gates``, in place; both ``[tokens, width]``."""
    for index in prange(values.shape[0]):
        token = np.int64(index)
        _gate(gates[token], values[token])


@compiled(parallel=True)
def rotate_and_store(query, key, value, cosine, sine, places, keys, values):
    """Rotate queries and keys in place, and put keys and values into the cache.

    Args:
        query: ``[tokens, heads, width]``.
        key: ``[tokens, key heads, width]``.
        value: shaped as ``key``.
        cosine: ``[tokens, width]``.
        sine: ``[tokens, width]``.
        places: int64 ``[tokens]``, each another one.
        keys: ``[places, key heads, width]``, a layer's whole table.
        values: shaped as ``keys``.
    """
    for index in prange(query.shape[0]):
        token = np.int64(index)
        _rotate(query[token], cosine[token], sine[token])
        _rotate(key[token], cosine[token], sine[token])
        _copy(key[token], keys[places[token]])
        _copy(value[token], values[places[token]])


@compiled()
def _add(x, added):
    for k in range(x.shape[0]):
        x[k] = narrow(widen(x[k]) + widen(added[k]), x[k])


@compiled()
def _normalize(x, weight, epsilon, out):
    width = x.shape[0]
    squares = np.float32(0.0)
    for k in range(width):
        value = widen(x[k])
        squares += value * value
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + epsilon)
    for k in range(width):
        normal = widen(narrow(widen(x[k]) * scale, x[k]))
        out[k] = narrow(widen(weight[k]) * normal, x[k])


@compiled()
def _gate(gates, values):
    for k in range(values.shape[0]):
        like = values[k]
        x = widen(gates[k])
        small = exponential(-abs(x))
        sigmoid = (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)
        values[k] = narrow(widen(narrow(x * sigmoid, like)) * widen(values[k]), like)


@compiled()
def _rotate(heads, cosine, sine):
    """Turn pairs of vectors ``[heads, width]``, as transformers' ``apply_rotary_pos_emb`` does."""
    half = heads.shape[1] // 2
    for head in range(heads.shape[0]):
        _turn(
            heads[head, :half],
            heads[head, half:],
            cosine[:half],
            cosine[half:],
            sine[:half],
            sine[half:],
        )


@inlined()
def _turn(lower, upper, lower_cosine, upper_cosine, lower_sine, upper_sine):
    for k in range(lower.shape[0]):
        like = lower[k]
        low, high = widen(lower[k]), widen(upper[k])
        turned = widen(narrow(low * widen(lower_cosine[k]), like)) - widen(
            narrow(high * widen(lower_sine[k]), like)
        )
        other = widen(narrow(high * widen(upper_cosine[k]), like)) + widen(
            narrow(low * widen(upper_sine[k]), like)
        )
        lower[k] = narrow(turned, like)
        upper[k] = narrow(other, like)


@compiled()
def _copy(source, target):
    for head in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[head, k] = source[head, k]
