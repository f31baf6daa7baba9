"""The output layer of a decoder and the largest logit of each token, by a few threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels.linear.fields import FIELDS, OUTPUTS
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.linear.products import multiply_groups
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd_floats import array_at
from adapterhub.kernels.work_sharing import claimed

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of phases.
PHASES = 2
#: Number of groups of outputs of a chunk; with two, matrix tiles are full.
_SIZE = 32
#: Bits of a bfloat16 without its sign, and those of infinity.
_MAGNITUDE, _INFINITE = np.int16(0x7FFF), np.int16(0x7F80)


def num_chunks(outputs: int) -> int:
    """Return the number of chunks of an output layer."""
    return -(-outputs // (GROUP * _SIZE))


@compiled(parallel=True)
def run_output(
    threads: int,
    counters: int,
    x: int,
    tokens: int,
    layer: int,
    y: int,
    largest: int,
    best: int,
) -> None:
    """Write the logits of some tokens, and the index of the largest one of each.

    Args:
        threads: Number of threads.
        counters: Address of the counters of the phases, which are zero.
        x: Address of the hidden states, bfloat16 ``[tokens, in]``.
        tokens: Number of tokens.
        layer: Address of the description of the layer.
        y: Address of the logits, bfloat16 ``[tokens, out]``.
        largest: Address of room for two int16 for each chunk and token.
        best: Address of the indices, int64 ``[tokens]``, -1 where a logit is not finite.
    """
    for _ in prange(threads):
        _work(counters, x, tokens, layer, y, largest, best)


@compiled()
def _work(counters: int, x: int, tokens: int, layer: int, y: int, largest: int, best: int) -> None:
    description = array_at(layer, FIELDS, np.int64)
    outputs = description[OUTPUTS]
    groups = outputs // GROUP
    total = (groups + _SIZE - 1) // _SIZE
    keys = array_at(largest, total * tokens * 2, np.int16)
    for chunk in claimed(counters, 0, total):
        first, last = chunk * _SIZE, min((chunk + 1) * _SIZE, groups)
        multiply_groups(x, tokens, description, y, outputs, first, last)
        for token in range(tokens):
            start = y + 2 * (token * outputs + first * GROUP)
            bits = array_at(start, (last - first) * GROUP, np.int16)
            place = 2 * (token * total + chunk)
            keys[place], keys[place + 1] = _largest(bits)
    for token in claimed(counters, 1, tokens):
        own = keys[2 * token * total : 2 * (token + 1) * total]
        bits = array_at(y + 2 * token * outputs, outputs, np.int16)
        array_at(best, tokens, np.int64)[token] = _index(own, bits)


@compiled()
def _key(bits: Any) -> Any:
    """Return an integer in the order of a bfloat16."""
    return np.int16(bits ^ ((bits >> np.int16(15)) & _MAGNITUDE))


@compiled()
def _largest(bits: NDArray[np.int16]) -> Any:
    """Return the largest key and the largest magnitude of some logits."""
    key, magnitude = np.int16(-0x8000), np.int16(0)
    for place in range(bits.shape[0]):
        key = max(key, _key(bits[place]))
        magnitude = max(magnitude, bits[place] & _MAGNITUDE)
    return key, magnitude


@compiled()
def _index(keys: NDArray[np.int16], bits: NDArray[np.int16]) -> int:
    """Return the first index of the largest logit, -1 if one is not finite.

    Args:
        keys: Largest key and magnitude of each chunk, one after the other.
        bits: All logits.
    """
    chunk = 0
    for other in range(keys.shape[0] // 2):
        if keys[2 * other + 1] >= _INFINITE:
            return -1
        if keys[2 * other] > keys[2 * chunk]:
            chunk = other
    place = chunk * _SIZE * GROUP
    while _key(bits[place]) != keys[2 * chunk]:
        place += 1
    return place
