"""The adapters of a step: of single tokens by entries, of long runs by matrix tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapterhub.kernels.amx import compiles_amx
from adapterhub.kernels.decoder_step import fields, lora
from adapterhub.kernels.decoder_step.access import (
    chunk_size,
    description_of,
    entry_of,
    inner_of,
    plan_of,
    table_of,
)
from adapterhub.kernels.linear.fields import OUTPUTS, WIDTH
from adapterhub.kernels.lora.tiled import add_part
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd_floats import array_at, integer_at
from adapterhub.kernels.work_sharing import claimed

if TYPE_CHECKING:
    from numpy.typing import NDArray

# numba leaves out what a constant excludes, which other CPUs can't compile
_COMPILES_AMX = compiles_amx()


@compiled()
def num_shrinks(step: int, layer: int, linear: int) -> int:
    plan = plan_of(step, layer, linear)
    if plan < 0:
        return 0
    firsts = integer_at(step, fields.FIRST_ENTRIES)
    entries = integer_at(firsts, plan + 1) - integer_at(firsts, plan)
    size = chunk_size(entries)
    return (entries + size - 1) // size


@compiled()
def shrink_chunk(step: int, layer: int, linear: int, chunk: int, x: int) -> None:
    plan, firsts = plan_of(step, layer, linear), integer_at(step, fields.FIRST_ENTRIES)
    begin, end = integer_at(firsts, plan), integer_at(firsts, plan + 1)
    size = chunk_size(end - begin)
    begin += chunk * size
    width = integer_at(description_of(step, layer, linear), WIDTH)
    table, inner = table_of(step, layer, linear, 0), inner_of(step, linear)
    slices, weights = integer_at(step, fields.SLICES), integer_at(step, fields.WEIGHTS)
    for number in range(begin, min(begin + size, end)):
        entry = entry_of(step, number)
        own = x + 2 * width * integer_at(entry, fields.TOKEN)
        lora.shrink(own, width, table, entry, slices, weights, inner)


@compiled()
def expand(
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
    plan = plan_of(step, layer, linear)
    if plan >= 0:
        place = plan * integer_at(step, fields.TOKENS) + token
        number = integer_at(integer_at(step, fields.ENTRY_OF), place)
        if number >= 0:
            table, inner = table_of(step, layer, linear, 1), inner_of(step, linear)
            slices = integer_at(step, fields.SLICES)
            lora.expand(y, width, first, last, table, entry_of(step, number), slices, inner)
    return y


@compiled()
def add_runs(step: int, layer: int, phase: int, first: int, count: int, x: int) -> None:
    """Add the adapters of long runs of tokens to the results of linear layers of one input."""
    total = _num_parts(step, layer, first, first + count)
    if total == 0:
        return
    for item in claimed(integer_at(step, fields.COUNTERS), phase, total):
        linear = first
        while item >= _num_parts(step, layer, first, linear + 1):
            linear += 1
        own = item - _num_parts(step, layer, first, linear)
        number = (
            integer_at(integer_at(step, fields.FIRST_PARTS), plan_of(step, layer, linear)) + own
        )
        part = integer_at(step, fields.PARTS) + 8 * fields.PART_FIELDS * number
        _add_part(step, layer, linear, part, x)


@compiled()
def _num_parts(step: int, layer: int, first: int, last: int) -> int:
    """Return the number of parts of the linear layers from ``first`` to ``last``."""
    found, firsts = 0, integer_at(step, fields.FIRST_PARTS)
    for linear in range(first, last):
        plan = plan_of(step, layer, linear)
        if plan >= 0:
            found += integer_at(firsts, plan + 1) - integer_at(firsts, plan)
    return found


@compiled()
def _add_part(step: int, layer: int, linear: int, part: int, x: int) -> None:
    """Add the adapters of a part to the result of a linear layer with inputs ``x``."""
    if _COMPILES_AMX:
        runs, run = integer_at(step, fields.RUNS), integer_at(part, fields.RUN)
        begin = integer_at(runs, run)
        ranks = integer_at(runs, run + 1) - begin
        slots = array_at(integer_at(step, fields.PART_SLOTS) + 8 * begin, ranks, np.int64)
        weights = array_at(integer_at(step, fields.PART_WEIGHTS) + 4 * begin, ranks, np.float32)
        description, count = description_of(step, layer, linear), integer_at(step, fields.TOKENS)
        width, outputs = integer_at(description, WIDTH), integer_at(description, OUTPUTS)
        rows = slots.max() + 1
        add_part(
            _matrix(integer_at(step, fields.RESULTS + linear), count, outputs),
            _matrix(x, count, width),
            _matrix(table_of(step, layer, linear, 0), rows, width),
            _matrix(table_of(step, layer, linear, 1), rows, outputs),
            integer_at(part, fields.PART_BEGIN),
            integer_at(part, fields.PART_END),
            slots,
            weights,
        )


@compiled()
def _matrix(address: int, rows: int, width: int) -> NDArray[np.uint16]:
    """Return bfloat16 values at an address as an array of their bits."""
    return array_at(address, rows * width, np.uint16).reshape(rows, width)
