"""The adapters of each token of a forward pass, for layers that receive no extra argument.

transformers' modules hand no argument down to their linear layers, so an adapted layer reads
the context of its forward pass from the one context variable of this package. It is set only
while a forward pass runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

from adapterhub.errors import UntraceableInputError
from adapterhub.kernels.lora.plan import build_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.kernels.lora.plan import LoraPlan, RankSlice

#: Number of consecutive tokens and the rank slices that they use in a layer.
_Use: TypeAlias = "tuple[int, tuple[RankSlice, ...]]"
#: Number of consecutive tokens and their blend.
Run: TypeAlias = "tuple[int, Blend]"


class ForwardContext:
    """Number of tokens and blend of each sequence of packed tokens, in batch order."""

    def __init__(self, uses: Sequence[Run]) -> None:
        """Describe a batch."""
        self.uses = tuple(uses)
        self._layer_sets = tuple({slot.layers for _, blend in uses for slot, _ in blend.slots})
        #: whether an adapter of the batch replaces norm layers
        self.norms = any(slot.norms for _, blend in uses for slot, _ in blend.slots)
        self._plans: dict[tuple[bool, ...], LoraPlan | None] = {}
        self._layer_plans: dict[int, LoraPlan | None] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows ``[num_rows, length, ...]`` of the batch, 1 for packed tokens."""
        return 1

    @property
    def length(self) -> int | None:
        """Number of tokens of a row with padding, ``None`` where layers differ in it."""
        return self.num_tokens

    @cached_property
    def num_tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(count for count, _ in self.uses)

    def plan(self, layer: int, shape: Sequence[int] | None = None) -> LoraPlan | None:
        """Return which tokens use which rank slots in a layer, or ``None`` where none does.

        Args:
            layer: Number of the adapted layer.
            shape: Shape of what the layer receives, ``[..., features]``. Packed tokens keep
                their order in all layers, and need none.
        """
        if layer not in self._layer_plans:
            key = self._changed(layer)
            # layers that the same adapters change share a plan; mostly all of them do
            if key not in self._plans:
                uses = [(count, blend.slices(layer)) for count, blend in self.uses]
                self._plans[key] = build_plan(uses)
            self._layer_plans[layer] = self._plans[key]
        return self._layer_plans[layer]

    def _changed(self, layer: int) -> tuple[bool, ...]:
        """Return which of the sets of layers of the batch's adapters contain a layer."""
        return tuple([layer in layers for layers in self._layer_sets])


class PaddedForwardContext(ForwardContext):
    """Blends of the tokens of each row of a batch of texts, images or recordings.

    A layer may receive the batch in other shapes than ``[rows, tokens, features]``. The tokens of
    a row are found by these rules:

    - All rows use the same rank slices in the layer: any shape is right.
    - ``[rows, tokens, ...]`` and ``[rows * tokens, ...]``: token by token.
    - ``[rows, ...]`` where each row uses one blend: row by row, as in a pooler.
    - ``[rows * parts, any, ...]`` where the number of tokens differs between layers: row by row,
      as in image models that merge tokens or read them in windows.

    Anything else, such as tokens sorted by expert or position embeddings that rows share, raises.

    Args:
        rows: Runs of each row in order. Padding uses the blend beside it: nothing reads it, and a
            row with one adapter keeps one blend.
        length: Number of tokens of a row with padding; ``None`` for images and recordings, whose
            number of tokens differs between layers.
        padding_side: Side of the padding.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Run]],
        length: int | None,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        super().__init__([run for row in rows for run in row])
        self._length = length
        self._rows = [_padded(row, length or 1, padding_side) for row in rows]
        self._shaped: dict[tuple[tuple[bool, ...], tuple[int, ...]], LoraPlan | None] = {}
        self._keys: dict[int, tuple[bool, ...]] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows ``[num_rows, length, ...]`` of the batch."""
        return len(self._rows)

    @property
    def length(self) -> int | None:
        """Number of tokens of a row with padding, ``None`` where layers differ in it."""
        return self._length

    def plan(self, layer: int, shape: Sequence[int] | None = None) -> LoraPlan | None:
        """Return which tokens use which rank slots in a layer, or ``None`` where none does.

        Raises:
            UntraceableInputError: If the rows cannot be distinguished in ``shape``.
        """
        if layer not in self._keys:
            self._keys[layer] = self._changed(layer)
        key = self._keys[layer]
        if not any(key):
            return None
        leading = tuple(shape[:-1]) if shape is not None else (len(self._rows), self._length or 1)
        if (key, leading) not in self._shaped:
            rows = [[(count, blend.slices(layer)) for count, blend in row] for row in self._rows]
            self._shaped[key, leading] = build_plan(self._uses(rows, leading))
        return self._shaped[key, leading]

    def _uses(self, rows: list[list[_Use]], leading: tuple[int, ...]) -> list[_Use]:
        """Return the uses of the vectors of a tensor in order."""
        used = {slices for row in rows for _, slices in row}
        total = prod(leading)
        if len(used) == 1:
            return [(total, used.pop())]
        count, length = len(rows), self._length
        if length is not None and (
            leading[:2] == (count, length) or leading[:1] == (count * length,)
        ):
            repeat = total // (count * length)
            return [(tokens * repeat, slices) for row in rows for tokens, slices in row]
        single = all(len({slices for _, slices in row}) == 1 for row in rows)
        if single and _holds_rows(leading, count, parts=length is None):
            return [(total // count, row[0][1]) for row in rows]
        raise UntraceableInputError(
            f"a layer received tokens of shape {list(leading)} of {count} sequences with "
            "different adapters, which can't be distinguished",
            hint="Compute one adapter at a time",
        )


def _padded(row: Sequence[Run], length: int, side: Literal["left", "right"]) -> list[Run]:
    """Return the runs of a row with its padding."""
    runs = list(row)
    missing = length - sum(count for count, _ in runs)
    if missing < 0 or not runs:
        raise ValueError(f"{length - missing} tokens do not fit into a row of {length}")
    at = 0 if side == "left" else -1
    count, blend = runs[at]
    runs[at] = (count + missing, blend)
    return runs


def _holds_rows(leading: tuple[int, ...], count: int, *, parts: bool) -> bool:
    """Return whether the vectors of a row lie together and are as many in every row."""
    if not leading:
        return False
    return leading[0] == count or (parts and len(leading) > 1 and leading[0] % count == 0)


_CONTEXT: ContextVar[ForwardContext | None] = ContextVar("forward_context", default=None)


def get_forward_context() -> ForwardContext | None:
    """Return the context of the running forward pass, or ``None`` outside of one."""
    return _CONTEXT.get()


@contextmanager
def set_forward_context(context: ForwardContext | None) -> Iterator[None]:
    """Make a context the current one while the block runs; ``None`` for the base model alone."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)
