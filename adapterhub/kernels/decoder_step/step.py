"""A whole decoder step by a few threads that share the work of each phase.

All functions are handed the address of a step, see ``fields``, and the number of a layer.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from adapterhub.kernels import simd
from adapterhub.kernels.decoder_step import adapters, attention, fields, tokens
from adapterhub.kernels.decoder_step.access import (
    chunk_size,
    claimed_items,
    description_of,
    layer_field,
    num_groups,
)
from adapterhub.kernels.linear.fields import FIELDS, OUTPUTS
from adapterhub.kernels.linear.products import multiply_groups
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd_floats import array_at, float_at, integer_at
from adapterhub.kernels.work_sharing import claimed

#: Number of phases of a layer; one more comes before all layers.
LAYER_PHASES = 13
#: Number of positions of a context that are prefetched before any of them is used.
_FORESEEN = 256
#: Number of outputs of an item of the gate.
_PART = 256


@compiled(parallel=True)
def run_step(threads: int, step: int) -> None:
    """Compute a step with some threads.

    Args:
        threads: Number of threads.
        step: Address of the step, whose counters are zero.
    """
    for _ in prange(threads):
        _work(step)


@compiled()
def _work(step: int) -> None:
    """Compute a share of every phase."""
    _embed(step)
    phase = 1
    normal, attended = integer_at(step, fields.NORMAL), integer_at(step, fields.ATTENDED)
    inner = integer_at(step, fields.RESULTS + fields.UP)
    for layer in range(integer_at(step, fields.NUM_LAYERS)):
        _multiply(step, layer, phase, fields.QUERY, 3, normal)
        adapters.add_runs(step, layer, phase + 1, fields.QUERY, 3, normal)
        _rotate(step, layer, phase + 2)
        _attend(step, layer, phase + 3)
        _multiply(step, layer, phase + 4, fields.OUTPUT, 1, attended)
        adapters.add_runs(step, layer, phase + 5, fields.OUTPUT, 1, attended)
        _add(step, layer, phase + 6, fields.OUTPUT)
        _multiply(step, layer, phase + 7, fields.GATE, 2, normal)
        adapters.add_runs(step, layer, phase + 8, fields.GATE, 2, normal)
        _gate(step, layer, phase + 9)
        _multiply(step, layer, phase + 10, fields.DOWN, 1, inner)
        adapters.add_runs(step, layer, phase + 11, fields.DOWN, 1, inner)
        _add(step, layer, phase + 12, fields.DOWN)
        phase += LAYER_PHASES


@compiled()
def _normalize(step: int, token: int, norm: int) -> None:
    """Normalize the residual stream of a token."""
    width = integer_at(step, fields.HIDDEN)
    state = integer_at(step, fields.STATE) + 2 * width * token
    normal = integer_at(step, fields.NORMAL) + 2 * width * token
    tokens.normalize(state, norm, width, float_at(integer_at(step, fields.NUMBERS), 0), normal)


@compiled()
def _embed(step: int) -> None:
    """Look tokens up in the embedding and normalize them for the first layer."""
    count, width = integer_at(step, fields.TOKENS), integer_at(step, fields.HIDDEN)
    ids, table = integer_at(step, fields.IDS), integer_at(step, fields.EMBEDDING)
    norm = layer_field(step, 0, fields.INPUT_NORM)
    for token in claimed_items(step, 0, count):
        state = integer_at(step, fields.STATE) + 2 * width * token
        tokens.copy(table + 2 * width * integer_at(ids, token), state, width)
        _normalize(step, token, norm)


@compiled()
def _multiply(step: int, layer: int, phase: int, first: int, count: int, x: int) -> None:
    """Compute linear layers of the same input, and the first factors of their adapters."""
    groups = 0
    for linear in range(first, first + count):
        groups += num_groups(step, layer, linear)
    # matrix tiles compute pairs of groups
    size = 2 * chunk_size((groups + 1) // 2)
    total = _num_all_chunks(step, layer, first, count, size)
    passed, linear = 0, first
    for chunk in claimed(integer_at(step, fields.COUNTERS), phase, total):
        # a thread claims ever later chunks
        while chunk - passed >= _num_chunks(step, layer, linear, size):
            passed += _num_chunks(step, layer, linear, size)
            linear += 1
        _multiply_chunk(step, layer, linear, chunk - passed, size, x)


@compiled()
def _num_all_chunks(step: int, layer: int, first: int, count: int, size: int) -> int:
    """Return the number of chunks of some linear layers."""
    total = 0
    for linear in range(first, first + count):
        total += _num_chunks(step, layer, linear, size)
    return total


@compiled()
def _num_chunks(step: int, layer: int, linear: int, size: int) -> int:
    """Return the number of chunks of a linear layer and of its adapters."""
    return _num_products(step, layer, linear, size) + adapters.num_shrinks(step, layer, linear)


@compiled()
def _num_products(step: int, layer: int, linear: int, size: int) -> int:
    return (num_groups(step, layer, linear) + size - 1) // size


@compiled()
def _multiply_chunk(step: int, layer: int, linear: int, chunk: int, size: int, x: int) -> None:
    products = _num_products(step, layer, linear, size)
    if chunk >= products:
        adapters.shrink_chunk(step, layer, linear, chunk - products, x)
        return
    count = integer_at(step, fields.TOKENS)
    description = array_at(description_of(step, layer, linear), FIELDS, np.int64)
    first = chunk * size
    last = min(first + size, num_groups(step, layer, linear))
    y = integer_at(step, fields.RESULTS + linear)
    multiply_groups(x, count, description, y, description[OUTPUTS], first, last)


@compiled()
def _rotate(step: int, layer: int, phase: int) -> None:
    """Add adapters to queries, keys and values, rotate them and fill the KV cache."""
    kv_heads = integer_at(step, fields.KV_HEADS)
    items = integer_at(step, fields.TOKENS) * kv_heads
    for item in claimed_items(step, phase, items):
        token, head = item // kv_heads, item % kv_heads
        _prepare_queries(step, layer, token, head)
        _store_key(step, layer, token, head)


@compiled()
def _turn(step: int, token: int, head: int, norm: int) -> None:
    """Normalize a head, if there is a norm, and rotate it."""
    width = integer_at(step, fields.HEAD_DIM)
    place = 2 * width * integer_at(integer_at(step, fields.ROTATION), token)
    if norm != 0:
        epsilon = float_at(integer_at(step, fields.NUMBERS), 0)
        tokens.normalize(head, norm, width, epsilon, head)
    cosine, sine = integer_at(step, fields.COSINE), integer_at(step, fields.SINE)
    tokens.rotate(head, cosine + place, sine + place, width)


@compiled()
def _prepare_queries(step: int, layer: int, token: int, head: int) -> None:
    """Finish the queries that share a key."""
    width, heads = integer_at(step, fields.HEAD_DIM), integer_at(step, fields.HEADS)
    group = heads // integer_at(step, fields.KV_HEADS)
    first, last = head * group * width, (head + 1) * group * width
    query = adapters.expand(step, layer, fields.QUERY, token, heads * width, first, last)
    for at in range(first, last, width):
        _turn(step, token, query + 2 * at, layer_field(step, layer, fields.QUERY_NORM))


@compiled()
def _store_key(step: int, layer: int, token: int, head: int) -> None:
    """Finish a key and a value and write them to the KV cache."""
    width = integer_at(step, fields.HEAD_DIM)
    first, last, size = head * width, (head + 1) * width, width * integer_at(step, fields.KV_HEADS)
    place = 2 * (integer_at(integer_at(step, fields.SLOTS), token) * size + first)
    key = adapters.expand(step, layer, fields.KEY, token, size, first, last) + 2 * first
    _turn(step, token, key, layer_field(step, layer, fields.KEY_NORM))
    tokens.copy(key, layer_field(step, layer, fields.KEYS) + place, width)
    value = adapters.expand(step, layer, fields.VALUE, token, size, first, last) + 2 * first
    tokens.copy(value, layer_field(step, layer, fields.VALUES) + place, width)


@compiled()
def _sequence(step: int, number: int) -> int:
    return integer_at(step, fields.SEQUENCE) + 8 * fields.SEQUENCE_FIELDS * number


@compiled()
def _attend(step: int, layer: int, phase: int) -> None:
    """Attend from every token to the context of its sequence."""
    kv_heads, sequences = integer_at(step, fields.KV_HEADS), integer_at(step, fields.SEQUENCES)
    shares = integer_at(_sequence(step, 0), fields.SHARES)
    heads = kv_heads // shares
    last = _sequence(step, sequences - 1)
    blocks = (integer_at(last, fields.COUNT) + fields.QUERY_BLOCK - 1) // fields.QUERY_BLOCK
    total, number = integer_at(last, fields.ITEM) + shares * blocks, 0
    for item in claimed(integer_at(step, fields.COUNTERS), phase, total):
        # a thread claims ever later items
        while number + 1 < sequences:
            if integer_at(_sequence(step, number + 1), fields.ITEM) > item:
                break
            number += 1
        sequence = _sequence(step, number)
        own = item - integer_at(sequence, fields.ITEM)
        block, first = own // shares, own % shares * heads
        _prefetch_context(step, layer, sequence, block, first, first + heads)
        for head in range(first, first + heads):
            _attend_block(step, layer, sequence, block, head)


@compiled()
def _prefetch_context(
    step: int, layer: int, sequence: int, block: int, first: int, last: int
) -> None:
    """Ask for keys and values of some heads, in the order in which they lie."""
    if block != 0:
        return
    width = integer_at(step, fields.HEAD_DIM)
    row = 2 * width * integer_at(step, fields.KV_HEADS)
    slots = integer_at(step, fields.CONTEXT) + 8 * integer_at(sequence, fields.PLACE)
    keys, values = layer_field(step, layer, fields.KEYS), layer_field(step, layer, fields.VALUES)
    for position in range(min(integer_at(sequence, fields.LENGTH), _FORESEEN)):
        place = integer_at(slots, position) * row
        for at in range(place + 2 * width * first, place + 2 * width * last, 64):
            simd.prefetch(keys + at)
            simd.prefetch(values + at)


@compiled()
def _attend_block(step: int, layer: int, sequence: int, block: int, head: int) -> None:
    """Attend from a block of tokens by the queries that share a key."""
    width, heads = integer_at(step, fields.HEAD_DIM), integer_at(step, fields.HEADS)
    kv_heads = integer_at(step, fields.KV_HEADS)
    group, row = heads // kv_heads, 2 * kv_heads * width
    length, count = integer_at(sequence, fields.LENGTH), integer_at(sequence, fields.COUNT)
    slots = integer_at(step, fields.CONTEXT) + 8 * integer_at(sequence, fields.PLACE)
    keys = layer_field(step, layer, fields.KEYS) + 2 * head * width
    values = layer_field(step, layer, fields.VALUES) + 2 * head * width
    queries, out = integer_at(step, fields.RESULTS), integer_at(step, fields.ATTENDED)
    scale = float_at(integer_at(step, fields.NUMBERS), 1)
    # whole registers
    scores = np.empty(length + 15, np.float32)
    begin, memory = block * fields.QUERY_BLOCK, scores.ctypes.data
    for token in range(begin, min(begin + fields.QUERY_BLOCK, count)):
        seen = length - count + token + 1
        place = 2 * width * ((integer_at(sequence, fields.FIRST) + token) * heads + head * group)
        for at in range(place, place + 2 * width * group, 2 * width):
            query, result = queries + at, out + at
            attention.attend(query, keys, values, slots, seen, width, row, scale, result, memory)


@compiled()
def _add(step: int, layer: int, phase: int, linear: int) -> None:
    """Add the results of a linear layer to the residual stream, and normalize that.

    Args:
        step: Address of the step.
        layer: Number of the layer.
        phase: Number of the phase.
        linear: Linear layer, whose adapters are added too; the norm is the next one behind it.
    """
    count, width = integer_at(step, fields.TOKENS), integer_at(step, fields.HIDDEN)
    norm = layer_field(step, layer, fields.POST_NORM)
    if linear == fields.DOWN:
        norm = integer_at(step, fields.LAST_NORM)
        if layer + 1 < integer_at(step, fields.NUM_LAYERS):
            norm = layer_field(step, layer + 1, fields.INPUT_NORM)
    for token in claimed_items(step, phase, count):
        y = adapters.expand(step, layer, linear, token, width, 0, width)
        tokens.add(integer_at(step, fields.STATE) + 2 * width * token, y, width)
        _normalize(step, token, norm)


@compiled()
def _gate(step: int, layer: int, phase: int) -> None:
    """Add adapters to the inner states of the feed-forward network and apply its gate."""
    count, width = integer_at(step, fields.TOKENS), integer_at(step, fields.INTERMEDIATE)
    parts = (width + _PART - 1) // _PART
    items = count * parts
    for item in claimed_items(step, phase, items):
        token, first = item // parts, item % parts * _PART
        last = min(first + _PART, width)
        gates = adapters.expand(step, layer, fields.GATE, token, width, first, last)
        ups = adapters.expand(step, layer, fields.UP, token, width, first, last)
        tokens.gate(gates + 2 * first, ups + 2 * first, last - first)
