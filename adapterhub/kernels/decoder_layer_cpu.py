"""Element-wise parts of a Llama-style decoder layer on CPUs, one pass over memory each.

Every step rounds where transformers' modules round, so that results agree to the last bits. Tokens
are distributed over the threads. The work on one token is a function of its own, because the
compiler vectorises that, but not the body of a parallel loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels.numba_support import compiled, exponential, inlined, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled(parallel=True)
def add_and_normalize(
    x: NDArray[Any], added: NDArray[Any], weight: NDArray[Any], epsilon: float, out: NDArray[Any]
) -> None:
    """Add ``added`` to ``x`` in place and write the RMS norm of the sum to ``out``.

    Args:
        x: Residual stream ``[num_tokens, hidden]``.
        added: Output of the previous block, shaped as ``x``, or ``[0, hidden]`` to add nothing.
        weight: Weight of the norm ``[hidden]``.
        epsilon: Epsilon of the norm.
        out: Normalized states, shaped as ``x``.
    """
    adds = added.shape[0] > 0
    for index in prange(x.shape[0]):
        token = np.int64(index)
        if adds:
            _add(x[token], added[token])
        _normalize(x[token], weight, epsilon, out[token])


@compiled(parallel=True)
def gate(gates: NDArray[Any], values: NDArray[Any]) -> None:
    """Multiply ``values`` by ``silu(gates)`` in place; both ``[num_tokens, intermediate]``."""
    for index in prange(values.shape[0]):
        token = np.int64(index)
        _gate(gates[token], values[token])


@compiled(parallel=True)
def rotate_and_store(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    cosine: NDArray[Any],
    sine: NDArray[Any],
    slots: NDArray[np.int64],
    keys: NDArray[Any],
    values: NDArray[Any],
) -> None:
    """Apply rotary embeddings in place and write keys and values to the KV cache.

    Args:
        query: Queries ``[num_tokens, heads, head_dim]``.
        key: Keys ``[num_tokens, kv_heads, head_dim]``.
        value: Values, shaped as ``key``.
        cosine: Cosines ``[num_tokens, head_dim]``.
        sine: Sines ``[num_tokens, head_dim]``.
        slots: Distinct KV-cache slots ``[num_tokens]``.
        keys: Key cache of the layer ``[num_slots, kv_heads, head_dim]``.
        values: Value cache of the layer, shaped as ``keys``.
    """
    for index in prange(query.shape[0]):
        token = np.int64(index)
        _rotate(query[token], cosine[token], sine[token])
        _rotate(key[token], cosine[token], sine[token])
        _copy(key[token], keys[slots[token]])
        _copy(value[token], values[slots[token]])


@compiled()
def _add(x: Any, added: Any) -> None:
    for k in range(x.shape[0]):
        x[k] = narrow(widen(x[k]) + widen(added[k]), x[k])


@compiled()
def _normalize(x: Any, weight: Any, epsilon: float, out: Any) -> None:
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
def _gate(gates: Any, values: Any) -> None:
    for k in range(values.shape[0]):
        like = values[k]
        x = widen(gates[k])
        small = exponential(-abs(x))
        sigmoid = (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)
        values[k] = narrow(widen(narrow(x * sigmoid, like)) * widen(values[k]), like)


@compiled()
def _rotate(heads: Any, cosine: Any, sine: Any) -> None:
    """Rotate ``[heads, head_dim]`` as transformers' ``apply_rotary_pos_emb`` does."""
    half = heads.shape[1] // 2
    for head in range(heads.shape[0]):
        _rotate_halves(
            heads[head, :half],
            heads[head, half:],
            cosine[:half],
            cosine[half:],
            sine[:half],
            sine[half:],
        )


@inlined
def _rotate_halves(
    lower: Any, upper: Any, lower_cosine: Any, upper_cosine: Any, lower_sine: Any, upper_sine: Any
) -> None:
    for k in range(lower.shape[0]):
        like = lower[k]
        low, high = widen(lower[k]), widen(upper[k])
        new_low = widen(narrow(low * widen(lower_cosine[k]), like)) - widen(
            narrow(high * widen(lower_sine[k]), like)
        )
        new_high = widen(narrow(high * widen(upper_cosine[k]), like)) + widen(
            narrow(low * widen(upper_sine[k]), like)
        )
        lower[k] = narrow(new_low, like)
        upper[k] = narrow(new_high, like)


@compiled()
def _copy(source: Any, target: Any) -> None:
    for head in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[head, k] = source[head, k]
