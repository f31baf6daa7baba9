"""Encoded examples and batches of them, packed without padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


#: CPU matrix libraries compile a kernel for every new shape, which can take as long as the
#: product itself; few distinct shapes let them reuse kernels.
FILL_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example as model input.

    Args:
        number: Number of the example in its source, from 1, for messages.
        input_ids: Token ids; beside a recording those that a decoder reads before the targets.
        select: Positions in ``input_ids`` at which the head is evaluated; where an encoder-decoder
            predicts ``targets``, the positions in these.
        targets: Class or token to predict at each of ``select``; for a span the indices in
            ``select`` of its first and last token; empty in prediction.
        segment_ids: Token type of each position for encoders that read text pairs, or empty.
        media: Loader of an image's pixels ``[channels, height, width]``, or of a recording's
            samples ``[samples]`` or spectrogram ``[…, …]``, float32; called when a batch is
            packed, so that decoded files do not stay in memory.
        positions: Size of an image or recording in positions, for batches bounded by tokens.
        truncated: Whether the end of what should be learned was cut off.
    """

    number: int
    input_ids: Sequence[int]
    select: Sequence[int]
    targets: Sequence[int] = ()
    segment_ids: Sequence[int] = ()
    media: Callable[[], Tensor] | None = None
    positions: int = 0
    truncated: bool = False

    def __len__(self) -> int:
        return self.positions if self.media is not None else len(self.input_ids)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end without padding; attention never crosses their borders.

    Sequences keep their order. Every matrix product runs over real tokens only, and a result
    does not depend on the lengths of the other sequences. A few positions of no sequence fill
    the batch up to a multiple of ``FILL_MULTIPLE``; nothing attends to them or reads them.

    A batch of images or recordings has no tokens, and each of them is selected once.
    """

    # [tokens + fill] int64
    input_ids: Tensor
    # [tokens + fill] int64, counted from 0 within each sequence
    position_ids: Tensor
    # [tokens + fill] int64, or None where the encoder reads single texts
    segment_ids: Tensor | None
    # [selected] int64, indices into the tokens
    select: Tensor
    # [selected] int64, [2 * sequences] for spans, or [0] in prediction
    targets: Tensor
    # per sequence: number of tokens
    lengths: tuple[int, ...]
    # per sequence: number of selected positions
    selected: tuple[int, ...]
    # per sequence: number of the example in its source, from 1
    numbers: tuple[int, ...]
    # per sequence: float32 input of an image or recording, see EncodedExample; None for texts
    media: tuple[Tensor, ...] | None = None
    # per sequence: token ids that a decoder reads before the targets, beside a recording
    prompts: tuple[tuple[int, ...], ...] = ()

    @property
    def tokens(self) -> int:
        """Number of real tokens, or of positions that images and recordings count for."""
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
            media=None if self.media is None else tuple(each.to(device) for each in self.media),
        )


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Sequences of a packed batch as the lines of a matrix, filled up at the end."""

    # [sequences, length] int64
    input_ids: Tensor
    # [sequences, length] int64, 1 for tokens and 0 for padding
    attention_mask: Tensor
    # [sequences, length] int64, or None where the encoder reads single texts
    segment_ids: Tensor | None
    # [selected] int64, sequence and position of each selected token
    sequences: Tensor
    positions: Tensor
    # [tokens] int64, sequence and position of each token
    token_sequences: Tensor
    token_positions: Tensor


def pad(batch: PackedBatch, token: int) -> PaddedBatch:
    """Return the sequences of a packed batch of texts, padded with a token."""
    device, count = batch.input_ids.device, batch.tokens
    lengths = torch.tensor(batch.lengths, device=device)
    sequences = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    positions = batch.position_ids[:count]
    place = (sequences, positions)
    shape = (len(lengths), max(batch.lengths))
    segments = None
    if batch.segment_ids is not None:
        segments = lengths.new_zeros(shape).index_put(place, batch.segment_ids[:count])
    return PaddedBatch(
        input_ids=lengths.new_full(shape, token).index_put(place, batch.input_ids[:count]),
        attention_mask=lengths.new_zeros(shape).index_put(place, lengths.new_ones(())),
        segment_ids=segments,
        sequences=sequences[batch.select],
        positions=positions[batch.select],
        token_sequences=sequences,
        token_positions=positions,
    )


def pack(examples: Sequence[EncodedExample]) -> PackedBatch:
    """Pack examples into one batch: tokens end to end, images and recordings side by side.

    Raises:
        ValueError: when ``examples`` is empty.
        DataError: when an image or recording can't be decoded.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    if examples[0].media is not None:
        return _of_media(examples)
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
        numbers=tuple(example.number for example in examples),
    )


def _of_media(examples: Sequence[EncodedExample]) -> PackedBatch:
    nothing = _int64([])
    return PackedBatch(
        input_ids=nothing,
        position_ids=nothing,
        segment_ids=None,
        select=_int64(list(range(len(examples)))),
        targets=_int64([target for example in examples for target in example.targets]),
        lengths=tuple(len(example) for example in examples),
        selected=tuple(len(example.select) for example in examples),
        numbers=tuple(example.number for example in examples),
        media=tuple(each.media() for each in examples if each.media is not None),
        prompts=tuple(tuple(example.input_ids) for example in examples),
    )


def _segments(example: EncodedExample) -> Sequence[int]:
    return example.segment_ids or [0] * len(example)


def _int64(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
