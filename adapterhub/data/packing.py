"""Encoded rows, and batches of them laid end to end without padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


#: Matrix libraries on CPUs build a program for every shape that they meet, which can take as
#: long as the product itself. Few shapes make the programs serve again.
FILL_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row.

    Args:
        row: number of the row in its source, from 1, for messages.
        input_ids: token ids.
        select: positions in ``input_ids`` at which the head is evaluated.
        targets: for each of ``select`` the class or token to predict; of a span the indices in
            ``select`` of its first and last token; empty in prediction.
        segment_ids: token type of each position for encoders that read text pairs, or empty.
        pixels: of a picture, which has no tokens: gives ``[channels, height, width]`` float32.
            It is asked when a batch is made, so that pictures are not held decoded.
        positions: of a picture, what it counts for where batches are cut by their size.
    """

    row: int
    input_ids: Sequence[int]
    select: Sequence[int]
    targets: Sequence[int] = ()
    segment_ids: Sequence[int] = ()
    pixels: Callable[[], Tensor] | None = None
    positions: int = 0

    def __len__(self) -> int:
        return self.positions if self.pixels is not None else len(self.input_ids)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Several rows laid end to end; attention never crosses a row's border.

    Rows keep the order they were given in. Every matrix product runs over real tokens only,
    so a batch wastes next to nothing on padding, and a row's result does not depend on the
    lengths of its neighbours. A few positions that belong to no row fill the batch up to a
    multiple of ``FILL_MULTIPLE``; nothing attends to them and nothing reads them.

    A batch of pictures has no tokens: its pictures are stacked, and each is selected once.
    """

    # [tokens + fill] int64
    input_ids: Tensor
    # [tokens + fill] int64, counted from 0 within each row
    position_ids: Tensor
    # [tokens + fill] int64, or None where the encoder reads single texts
    segment_ids: Tensor | None
    # [selected] int64, indices into the tokens
    select: Tensor
    # [selected] int64, [2 * rows] for spans, or [0] in prediction
    targets: Tensor
    # per row: number of tokens
    lengths: tuple[int, ...]
    # per row: number of selected positions
    selected: tuple[int, ...]
    # per row: number in the source, from 1
    rows: tuple[int, ...]
    # [rows, channels, height, width] float32, or None where rows are texts
    pixels: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of real tokens, or of positions that pictures count for."""
        return sum(self.lengths)

    def to(self, device: torch.device) -> PackedBatch:
        """Return this batch with its tensors on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            segment_ids=None if self.segment_ids is None else self.segment_ids.to(device),
            select=self.select.to(device),
            targets=self.targets.to(device),
            pixels=None if self.pixels is None else self.pixels.to(device),
        )


def pack(examples: Sequence[Example]) -> PackedBatch:
    """Lay examples end to end, or stack those that are pictures.

    Raises:
        ValueError: when ``examples`` is empty.
        DataError: when a picture can't be decoded.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    if examples[0].pixels is not None:
        return _stack(examples)
    lengths = tuple(len(example) for example in examples)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    has_segments = any(example.segment_ids for example in examples)
    fill = [0] * (-sum(lengths) % FILL_MULTIPLE)
    return PackedBatch(
        input_ids=_int64([token for example in examples for token in example.input_ids] + fill),
        position_ids=_int64([at for length in lengths for at in range(length)] + fill),
        segment_ids=(
            _int64([segment for example in examples for segment in _segments(example)] + fill)
            if has_segments
            else None
        ),
        select=_int64(
            [
                start + position
                for start, example in zip(starts, examples, strict=True)
                for position in example.select
            ]
        ),
        targets=_int64([target for example in examples for target in example.targets]),
        lengths=lengths,
        selected=tuple(len(example.select) for example in examples),
        rows=tuple(example.row for example in examples),
    )


def _stack(examples: Sequence[Example]) -> PackedBatch:
    nothing = _int64([])
    return PackedBatch(
        input_ids=nothing,
        position_ids=nothing,
        segment_ids=None,
        select=_int64(list(range(len(examples)))),
        targets=_int64([target for example in examples for target in example.targets]),
        lengths=tuple(len(example) for example in examples),
        selected=(1,) * len(examples),
        rows=tuple(example.row for example in examples),
        pixels=torch.stack([each.pixels() for each in examples if each.pixels is not None]),
    )


def _segments(example: Example) -> Sequence[int]:
    return example.segment_ids or [0] * len(example)


def _int64(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
