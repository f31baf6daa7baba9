"""Which rows go into which batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Batches that are sorted by length together: long enough for even batches, short enough
#: that an epoch stays shuffled.
BUCKET_BATCHES = 50


def plan_batches(
    lengths: Sequence[int],
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    seed: int,
    epoch: int,
    shuffle: bool,
) -> list[list[int]]:
    """Cut rows into batches of similar length; every row appears exactly once.

    Args:
        lengths: tokens of each row.
        batch_size: rows a batch.
        batch_tokens: tokens a batch, instead; a longer row makes a batch of its own.
        seed: with ``epoch`` it decides the order.
        epoch: from 0.
        shuffle: draw the order; otherwise rows are only sorted by length.

    Returns:
        Row indices of each batch, longest first, so that equal lengths are neighbours.

    Raises:
        ValueError: unless exactly one of ``batch_size`` and ``batch_tokens`` is given.
    """
    if (batch_size is None) == (batch_tokens is None):
        raise ValueError("give either batch_size or batch_tokens")
    count = len(lengths)
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(count).tolist() if shuffle else list(range(count))
    mean = sum(lengths) / count if count else 1.0
    rows = batch_size or max(1, round((batch_tokens or 0) / mean))
    bucket = rows * BUCKET_BATCHES if shuffle else max(count, 1)
    batches: list[list[int]] = []
    for start in range(0, count, bucket):
        members = sorted(order[start : start + bucket], key=lambda i: -lengths[i])
        batches += _cut(members, lengths, batch_size, batch_tokens)
    if shuffle:
        batches = [batches[index] for index in random.permutation(len(batches))]
    return batches


def shard(batches: list[list[int]], rank: int, world: int) -> list[list[int]]:
    """Return one process's share of the batches; all shares are equally long.

    What does not divide evenly is left out of this epoch: at most ``world - 1`` batches,
    other ones each epoch, because the order is drawn anew. Fewer batches than processes
    are repeated instead, so that no process is without work.
    """
    if len(batches) < world:
        return [batches[rank % len(batches)]]
    return batches[rank : len(batches) - len(batches) % world : world]


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of positions that padding each batch to its longest row would add."""
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches if batch)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1.0 - real / padded if padded else 0.0


def _cut(
    members: list[int], lengths: Sequence[int], batch_size: int | None, batch_tokens: int | None
) -> list[list[int]]:
    if batch_size is not None:
        return [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
    batches: list[list[int]] = []
    room = 0
    for index in members:
        if lengths[index] > room or not batches:
            batches.append([])
            room = batch_tokens or 0
        batches[-1].append(index)
        room -= lengths[index]
    return batches
