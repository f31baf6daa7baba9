"""Element-wise parts of a Llama-style decoder layer on CPUs, forward and backward.

The forward passes round where transformers' modules round. The backward passes compute in float32,
and a sum of gradients is rounded once more. Tokens are distributed over the threads; see
``decoder_layer_cpu``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels.numba_support import compiled, exponential, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled(parallel=True)
def normalize_backward(
    x: NDArray[Any],
    weight: NDArray[Any],
    epsilon: float,
    grad: NDArray[Any],
    d_sum: NDArray[Any],
    d_x: NDArray[Any],
) -> None:
    """Write the gradient of an RMS norm's input, plus ``d_sum``.

        y = w ∘ x r,   r = rsqrt(mean(x²) + epsilon)
        dx = r (w ∘ dy) - x r³ mean(w ∘ dy ∘ x)

    Args:
        x: Input ``[num_tokens, hidden]``.
        weight: Weight of the norm ``[hidden]``.
        epsilon: Epsilon of the norm.
        grad: Gradient of the output, shaped as ``x``.
        d_sum: Another gradient of the input, or ``[0, hidden]`` for none.
        d_x: Result, shaped as ``x``.
    """
    adds = d_sum.shape[0] > 0
    for index in prange(x.shape[0]):
        token = np.int64(index)
        _normalize_backward(x[token], weight, epsilon, grad[token], d_x[token])
        if adds:
            _add(d_x[token], d_sum[token])


@compiled(parallel=True)
def gate_forward(gates: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Write ``silu(gates) ∘ values``; all ``[num_tokens, intermediate]``."""
    for index in prange(values.shape[0]):
        token = np.int64(index)
        _gate(gates[token], values[token], out[token])


@compiled(parallel=True)
def gate_backward(
    gates: NDArray[Any],
    values: NDArray[Any],
    grad: NDArray[Any],
    d_gates: NDArray[Any],
    d_values: NDArray[Any],
) -> None:
    """Write the gradients of ``gate_forward``; all ``[num_tokens, intermediate]``."""
    for index in prange(values.shape[0]):
        token = np.int64(index)
        _gate_backward(gates[token], values[token], grad[token], d_gates[token], d_values[token])


@compiled(parallel=True)
def rotate(
    x: NDArray[Any], cosine: NDArray[Any], sine: NDArray[Any], back: bool, out: NDArray[Any]
) -> None:
    """Write rotary embeddings of ``x``, or with ``back`` the gradient of ``x``.

    Args:
        x: ``[num_tokens, heads, head_dim]``.
        cosine: Cosines ``[num_tokens, head_dim]``.
        sine: Sines, shaped as ``cosine``.
        back: Whether ``x`` is the gradient of the result.
        out: Shaped as ``x``.
    """
    for index in prange(x.shape[0]):
        token = np.int64(index)
        for head in range(x.shape[1]):
            if back:
                _turn_back(x[token, head], cosine[token], sine[token], out[token, head])
            else:
                _turn(x[token, head], cosine[token], sine[token], out[token, head])


@compiled()
def _normalize_backward(x: Any, weight: Any, epsilon: float, grad: Any, d_x: Any) -> None:
    width = x.shape[0]
    squares, product = np.float32(0.0), np.float32(0.0)
    for k in range(width):
        value = widen(x[k])
        squares += value * value
        product += value * widen(weight[k]) * widen(grad[k])
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(epsilon))
    factor = scale * scale * scale * product / np.float32(width)
    for k in range(width):
        d = widen(weight[k]) * widen(grad[k]) * scale - widen(x[k]) * factor
        d_x[k] = narrow(d, x[k])


@compiled()
def _add(x: Any, added: Any) -> None:
    for k in range(x.shape[0]):
        x[k] = narrow(widen(x[k]) + widen(added[k]), x[k])


@compiled()
def _gate(gates: Any, values: Any, out: Any) -> None:
    for k in range(values.shape[0]):
        x = widen(gates[k])
        activated = narrow(x * _sigmoid(x), values[k])
        out[k] = narrow(widen(activated) * widen(values[k]), values[k])


@compiled()
def _gate_backward(gates: Any, values: Any, grad: Any, d_gates: Any, d_values: Any) -> None:
    for k in range(values.shape[0]):
        x, d = widen(gates[k]), widen(grad[k])
        sigmoid = _sigmoid(x)
        slope = sigmoid * (np.float32(1.0) + x * (np.float32(1.0) - sigmoid))
        d_gates[k] = narrow(d * widen(values[k]) * slope, values[k])
        d_values[k] = narrow(d * x * sigmoid, values[k])


@compiled()
def _sigmoid(x: Any) -> Any:
    small = exponential(-abs(x))
    return (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)


@compiled()
def _turn(x: Any, cosine: Any, sine: Any, out: Any) -> None:
    """Rotate one head as transformers' ``apply_rotary_pos_emb`` does."""
    half = x.shape[0] // 2
    low, high, new_low, new_high = x[:half], x[half:], out[:half], out[half:]
    low_cosine, high_cosine = cosine[:half], cosine[half:]
    low_sine, high_sine = sine[:half], sine[half:]
    for k in range(half):
        like = low[k]
        a, b = widen(low[k]), widen(high[k])
        first = narrow(a * widen(low_cosine[k]), like)
        second = narrow(b * widen(low_sine[k]), like)
        new_low[k] = narrow(widen(first) - widen(second), like)
        first = narrow(b * widen(high_cosine[k]), like)
        second = narrow(a * widen(high_sine[k]), like)
        new_high[k] = narrow(widen(first) + widen(second), like)


@compiled()
def _turn_back(grad: Any, cosine: Any, sine: Any, out: Any) -> None:
    half = grad.shape[0] // 2
    low, high, new_low, new_high = grad[:half], grad[half:], out[:half], out[half:]
    low_cosine, high_cosine = cosine[:half], cosine[half:]
    low_sine, high_sine = sine[:half], sine[half:]
    for k in range(half):
        like = low[k]
        a, b = widen(low[k]), widen(high[k])
        new_low[k] = narrow(a * widen(low_cosine[k]) + b * widen(high_sine[k]), like)
        new_high[k] = narrow(b * widen(high_cosine[k]) - a * widen(low_sine[k]), like)
