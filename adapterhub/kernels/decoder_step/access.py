"""What compiled code reads from the fields of a step; see ``fields``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.kernels.decoder_step import fields
from adapterhub.kernels.linear.fields import FIELDS, OUTPUTS
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd_floats import integer_at
from adapterhub.kernels.work_sharing import claimed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Number of chunks that the work of a phase is divided into if it has as many items.
_CHUNKS = 32


@compiled()
def chunk_size(items: int) -> int:
    """Return the number of items in a chunk."""
    return (items + _CHUNKS - 1) // _CHUNKS


@compiled(cached=False)
def claimed_items(step: int, phase: int, items: int) -> Iterator[int]:
    """Yield the items of a phase that this thread has to compute, claimed in chunks."""
    size = chunk_size(items)
    for chunk in claimed(integer_at(step, fields.COUNTERS), phase, (items + size - 1) // size):
        for item in range(chunk * size, min((chunk + 1) * size, items)):  # noqa: UP028
            yield item


@compiled()
def layer_field(step: int, layer: int, field: int) -> int:
    return integer_at(integer_at(step, fields.LAYERS), layer * fields.LAYER_FIELDS + field)


@compiled()
def description_of(step: int, layer: int, linear: int) -> int:
    """Return the address of the description of a linear layer."""
    number = layer * len(fields.LINEARS) + linear
    return integer_at(step, fields.DESCRIPTIONS) + 8 * FIELDS * number


@compiled()
def num_groups(step: int, layer: int, linear: int) -> int:
    return integer_at(description_of(step, layer, linear), OUTPUTS) // GROUP


@compiled()
def table_of(step: int, layer: int, linear: int, factor: int) -> int:
    """Return the address of the first or second factors of a linear layer."""
    number = layer * len(fields.LINEARS) + linear
    return integer_at(integer_at(step, fields.TABLES), 2 * number + factor)


@compiled()
def plan_of(step: int, layer: int, linear: int) -> int:
    """Return the number of the plan of a linear layer, -1 for none."""
    return integer_at(integer_at(step, fields.PLANS), layer * len(fields.LINEARS) + linear)


@compiled()
def inner_of(step: int, linear: int) -> int:
    """Return the address of the results of the first factors of a linear layer."""
    return integer_at(step, fields.INNER) + 4 * integer_at(step, fields.INNER_SIZE) * linear


@compiled()
def entry_of(step: int, entry: int) -> int:
    return integer_at(step, fields.ENTRIES) + 8 * fields.ENTRY_FIELDS * entry
