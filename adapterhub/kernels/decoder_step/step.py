"""A whole decoder step by a few threads that share the work of each phase.

All functions are handed the address of a step, see ``fields``, and the number of a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import prange

from adapterhub.kernels import simd
from adapterhub.kernels.decoder_step import attention, fields, lora, tokens
from adapterhub.kernels.linear.fields import FIELDS, OUTPUTS, WIDTH
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.linear.products import multiply_groups
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd_floats import array_at, float_at, integer_at
from adapterhub.kernels.work_sharing import claimed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Number of phases of a layer; one more comes before all layers.
LAYER_PHASES = 9
#: Number of chunks that the work of a phase is divided into if it has as many items.
_CHUNKS = 32
#: Number of positions of a context that are asked for before any of them is used.
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
    for layer in range(integer_at(step, fields.NUM_LAYERS)):
        _multiply(step, layer, phase, fields.QUERY, 3, integer_at(step, fields.NORMAL))
        _rotate(step, layer, phase + 1)
        _attend(step, layer, phase + 2)
        _multiply(step, layer, phase + 3, fields.OUTPUT, 1, integer_at(step, fields.ATTENDED))
        _add(step, layer, phase + 4, fields.OUTPUT)
        _multiply(step, layer, phase + 5, fields.GATE, 2, integer_at(step, fields.NORMAL))
        _gate(step, layer, phase + 6)
        up = integer_at(step, fields.RESULTS + fields.UP)
        _multiply(step, layer, phase + 7, fields.DOWN, 1, up)
        _add(step, layer, phase + 8, fields.DOWN)
        phase += LAYER_PHASES


@compiled()
def _chunk(items: int) -> int:
    """Return the number of items in a chunk."""
    return (items + _CHUNKS - 1) // _CHUNKS


@compiled()
def _items(step: int, phase: int, items: int) -> Iterator[int]:
    """Yield the items of a phase that this thread has to compute, claimed in chunks."""
    size = _chunk(items)
    for chunk in claimed(integer_at(step, fields.COUNTERS), phase, (items + size - 1) // size):
        for item in range(chunk * size, min((chunk + 1) * size, items)):  # noqa: UP028
            yield item


@compiled()
def _layer_field(step: int, layer: int, field: int) -> int:
    return integer_at(integer_at(step, fields.LAYERS), layer * fields.LAYER_FIELDS + field)


@compiled()
def _description(step: int, layer: int, linear: int) -> int:
    """Return the address of the description of a linear layer."""
    number = layer * len(fields.LINEARS) + linear
    return integer_at(step, fields.DESCRIPTIONS) + 8 * FIELDS * number


@compiled()
def _num_groups(step: int, layer: int, linear: int) -> int:
    return integer_at(_description(step, layer, linear), OUTPUTS) // GROUP


@compiled()
def _table(step: int, layer: int, linear: int, factor: int) -> int:
    """Return the address of the first or second factors of a linear layer."""
    number = layer * len(fields.LINEARS) + linear
    return integer_at(integer_at(step, fields.TABLES), 2 * number + factor)


@compiled()
def _plan(step: int, layer: int, linear: int) -> int:
    """Return the number of the plan of a linear layer, -1 for none."""
    return integer_at(integer_at(step, fields.PLANS), layer * len(fields.LINEARS) + linear)


@compiled()
def _inner(step: int, linear: int) -> int:
    """Return the address of the results of the first factors of a linear layer."""
    return integer_at(step, fields.INNER) + 4 * integer_at(step, fields.INNER_SIZE) * linear


@compiled()
def _entry(step: int, entry: int) -> int:
    return integer_at(step, fields.ENTRIES) + 8 * fields.ENTRY_FIELDS * entry


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
    norm = _layer_field(step, 0, fields.INPUT_NORM)
    for token in _items(step, 0, count):
        state = integer_at(step, fields.STATE) + 2 * width * token
        tokens.copy(table + 2 * width * integer_at(ids, token), state, width)
        _normalize(step, token, norm)


@compiled()
def _multiply(step: int, layer: int, phase: int, first: int, count: int, x: int) -> None:
    """Compute linear layers of the same input, and the first factors of their adapters."""
    groups = 0
    for linear in range(first, first + count):
        groups += _num_groups(step, layer, linear)
    # matrix tiles compute pairs of groups
    size = 2 * _chunk((groups + 1) // 2)
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
    return _num_products(step, layer, linear, size) + _num_shrinks(step, layer, linear)


@compiled()
def _num_products(step: int, layer: int, linear: int, size: int) -> int:
    return (_num_groups(step, layer, linear) + size - 1) // size


@compiled()
def _num_shrinks(step: int, layer: int, linear: int) -> int:
    plan = _plan(step, layer, linear)
    if plan < 0:
        return 0
    firsts = integer_at(step, fields.FIRST_ENTRIES)
    entries = integer_at(firsts, plan + 1) - integer_at(firsts, plan)
    size = _chunk(entries)
    return (entries + size - 1) // size


@compiled()
def _multiply_chunk(step: int, layer: int, linear: int, chunk: int, size: int, x: int) -> None:
    products = _num_products(step, layer, linear, size)
    if chunk >= products:
        _shrink_chunk(step, layer, linear, chunk - products, x)
        return
    count = integer_at(step, fields.TOKENS)
    description = array_at(_description(step, layer, linear), FIELDS, np.int64)
    first = chunk * size
    last = min(first + size, _num_groups(step, layer, linear))
    y = integer_at(step, fields.RESULTS + linear)
    multiply_groups(x, count, description, y, description[OUTPUTS], first, last)


@compiled()
def _shrink_chunk(step: int, layer: int, linear: int, chunk: int, x: int) -> None:
    plan, firsts = _plan(step, layer, linear), integer_at(step, fields.FIRST_ENTRIES)
    begin, end = integer_at(firsts, plan), integer_at(firsts, plan + 1)
    size = _chunk(end - begin)
    begin += chunk * size
    width = integer_at(_description(step, layer, linear), WIDTH)
    table, inner = _table(step, layer, linear, 0), _inner(step, linear)
    slices, weights = integer_at(step, fields.SLICES), integer_at(step, fields.WEIGHTS)
    for number in range(begin, min(begin + size, end)):
        entry = _entry(step, number)
        own = x + 2 * width * integer_at(entry, fields.TOKEN)
        lora.shrink(own, width, table, entry, slices, weights, inner)


@compiled()
def _expand(
    step: int, layer: int, linear: int, token: int, width: int, first: int, last: int
) -> int:
    """Add the adapters of a token to some outputs of a layer; return the address of all.

    Args:
        step: Address of the step.
        layer: Number of the layer.
        linear: Number of its linear layer.
        token: Number of the token.
        width: Number of outputs.
        first: First output to change.
        last: Output after the last one.
    """
    y = integer_at(step, fields.RESULTS + linear) + 2 * width * token
    plan = _plan(step, layer, linear)
    if plan >= 0:
        place = plan * integer_at(step, fields.TOKENS) + token
        number = integer_at(integer_at(step, fields.ENTRY_OF), place)
        if number >= 0:
            table, inner = _table(step, layer, linear, 1), _inner(step, linear)
            slices = integer_at(step, fields.SLICES)
            lora.expand(y, width, first, last, table, _entry(step, number), slices, inner)
    return y


@compiled()
def _rotate(step: int, layer: int, phase: int) -> None:
    """Add adapters to queries, keys and values, rotate them and fill the KV cache."""
    kv_heads = integer_at(step, fields.KV_HEADS)
    items = integer_at(step, fields.TOKENS) * kv_heads
    for item in _items(step, phase, items):
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
    query = _expand(step, layer, fields.QUERY, token, heads * width, first, last)
    for at in range(first, last, width):
        _turn(step, token, query + 2 * at, _layer_field(step, layer, fields.QUERY_NORM))


@compiled()
def _store_key(step: int, layer: int, token: int, head: int) -> None:
    """Finish a key and a value and write them to the KV cache."""
    width = integer_at(step, fields.HEAD_DIM)
    first, last, size = head * width, (head + 1) * width, width * integer_at(step, fields.KV_HEADS)
    place = 2 * (integer_at(integer_at(step, fields.SLOTS), token) * size + first)
    key = _expand(step, layer, fields.KEY, token, size, first, last) + 2 * first
    _turn(step, token, key, _layer_field(step, layer, fields.KEY_NORM))
    tokens.copy(key, _layer_field(step, layer, fields.KEYS) + place, width)
    value = _expand(step, layer, fields.VALUE, token, size, first, last) + 2 * first
    tokens.copy(value, _layer_field(step, layer, fields.VALUES) + place, width)


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
    keys, values = _layer_field(step, layer, fields.KEYS), _layer_field(step, layer, fields.VALUES)
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
    keys = _layer_field(step, layer, fields.KEYS) + 2 * head * width
    values = _layer_field(step, layer, fields.VALUES) + 2 * head * width
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
    norm = _layer_field(step, layer, fields.POST_NORM)
    if linear == fields.DOWN:
        norm = integer_at(step, fields.LAST_NORM)
        if layer + 1 < integer_at(step, fields.NUM_LAYERS):
            norm = _layer_field(step, layer + 1, fields.INPUT_NORM)
    for token in _items(step, phase, count):
        y = _expand(step, layer, linear, token, width, 0, width)
        tokens.add(integer_at(step, fields.STATE) + 2 * width * token, y, width)
        _normalize(step, token, norm)


@compiled()
def _gate(step: int, layer: int, phase: int) -> None:
    """Add adapters to the inner states of the feed-forward network and apply its gate."""
    count, width = integer_at(step, fields.TOKENS), integer_at(step, fields.INTERMEDIATE)
    parts = (width + _PART - 1) // _PART
    items = count * parts
    for item in _items(step, phase, items):
        token, first = item // parts, item % parts * _PART
        last = min(first + _PART, width)
        gates = _expand(step, layer, fields.GATE, token, width, first, last)
        ups = _expand(step, layer, fields.UP, token, width, first, last)
        tokens.gate(gates + 2 * first, ups + 2 * first, last - first)
