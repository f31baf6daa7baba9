"""Inputs of a compiled decoder for a step: its tokens and their adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from adapterhub.kernels.decoder_step import fields
from adapterhub.kernels.lora.plan import LoraPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.attention.paged import PagedBatch
    from adapterhub.kernels.lora.plan import PartArrays

#: Number of blocks of tokens from which an item of attention has all heads.
_MIN_BLOCKS = 8


class StepTokens(NamedTuple):
    """The tokens of a step and their places in the KV cache."""

    # int64 [num_tokens] each
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    # int64, slots of the contexts of all sequences, one after the other
    context: NDArray[np.int64]
    # int64 [num_seqs, SEQUENCE_FIELDS], see ``fields``
    sequences: NDArray[np.int64]


class LongRuns(NamedTuple):
    """Runs of many tokens of an adapter in a step, in parts; see ``PartArrays``."""

    # int64 [plans + 1]: first part of each plan
    firsts: NDArray[np.int64]
    # int64 [parts, PART_FIELDS]
    parts: NDArray[np.int64]
    # int64 [runs + 1]: first slot of each run
    offsets: NDArray[np.int64]
    # int64 [slots]: rank slots
    slots: NDArray[np.int64]
    # float32 [slots]
    weights: NDArray[np.float32]


class StepAdapters(NamedTuple):
    """The adapters of the tokens of a step; see ``fields``."""

    # int64 [linear layers]: plan of each linear layer, -1 for none
    plans: NDArray[np.int64]
    # int64 [plans + 1]: first entry of each plan
    firsts: NDArray[np.int64]
    # int64 [entries, ENTRY_FIELDS]
    entries: NDArray[np.int64]
    # int64 [plans, tokens]: entry of each token, -1 for none
    entry_of: NDArray[np.int64]
    # int64 [slices, 2]: first rank slot, rank
    slices: NDArray[np.int64]
    # float32 [slices]
    weights: NDArray[np.float32]
    # tokens that have no entry
    long: LongRuns
    # number of results of the first factors of a layer
    inner_size: int


def tokens_of_step(
    ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    context: NDArray[np.int64],
    spans: NDArray[np.int64],
    kv_heads: int,
) -> StepTokens:
    """Return the tokens of a step with what follows from their sequences.

    Args:
        ids: Token ids.
        positions: Positions.
        context: KV-cache slots of the contexts of all sequences.
        spans: ``[num_seqs, 2]``: number of tokens, and length of the context with them.
        kv_heads: Number of key-value heads of a layer.
    """
    counts, lengths = spans[:, 0], spans[:, 1]
    sequences = np.empty((len(spans), fields.SEQUENCE_FIELDS), np.int64)
    sequences[:, fields.COUNT], sequences[:, fields.LENGTH] = counts, lengths
    firsts, ends = counts.cumsum() - counts, lengths.cumsum()
    sequences[:, fields.FIRST], sequences[:, fields.PLACE] = firsts, ends - lengths
    blocks = -(-counts // fields.QUERY_BLOCK)
    # a slot of the KV cache holds all heads, which are read together if there is enough to share
    shares = kv_heads if blocks.sum() < _MIN_BLOCKS else 1
    items = shares * blocks
    sequences[:, fields.ITEM], sequences[:, fields.SHARES] = items.cumsum() - items, shares
    # the last slots of a context are those of its tokens
    places = np.repeat(ends - counts - firsts, counts) + np.arange(len(ids))
    return StepTokens(ids, positions, context[places], context, sequences)


def paged_tokens(ids: Tensor, positions: Tensor, paged: PagedBatch) -> StepTokens:
    """Return the tokens of a step in the form of ``FastDecoder``'s arguments."""
    context = torch.cat([each.slots for each in paged.sequences]).numpy()
    spans = [(each.num_tokens, each.context_len) for each in paged.sequences]
    kv_heads = paged.cache.keys[0].shape[2]
    flat_ids, flat_positions = (each.flatten().long().numpy() for each in (ids, positions))
    return tokens_of_step(flat_ids, flat_positions, context, np.array(spans, np.int64), kv_heads)


def step_adapters(
    plans: Sequence[LoraPlan | None], tokens: int, *, tiled: bool = False
) -> StepAdapters:
    """Return the adapters of a step.

    Args:
        plans: Plan of each linear layer, in the order of the decoder's; mostly the same one.
        tokens: Number of tokens of the step.
        tiled: Whether long runs are multiplied with matrix tiles; see ``CompiledDecoder.tiled``.
    """
    distinct = list({id(each): each for each in plans if each is not None}.values())
    numbers = {id(each): number for number, each in enumerate(distinct)}
    chosen = [-1 if each is None else numbers[id(each)] for each in plans]
    split = [each.tiled if tiled else (None, each) for each in distinct]
    parts = [_entries(each or LoraPlan([])) for _, each in split]
    firsts = np.cumsum([0, *(len(part.entries) for part in parts)], dtype=np.int64)
    slices = np.cumsum([0, *(len(part.slices) for part in parts)])
    entry_of = np.full((max(len(parts), 1), tokens), -1, np.int64)
    for number, part in enumerate(parts):
        part.entries[:, fields.FIRST_SLICE : fields.LAST_SLICE + 1] += slices[number]
        entry_of[number, part.entries[:, fields.TOKEN]] = firsts[number] + np.arange(
            len(part.entries)
        )
    return StepAdapters(
        np.array(chosen, np.int64),
        firsts,
        _joined([part.entries for part in parts], (0, fields.ENTRY_FIELDS), np.int64),
        entry_of,
        _joined([part.slices for part in parts], (0, 2), np.int64),
        _joined([part.weights for part in parts], (0,), np.float32),
        _long_runs([long for long, _ in split]),
        max([0, *(part.inner_size for part in parts)]),
    )


def _long_runs(long: Sequence[PartArrays | None]) -> LongRuns:
    """Return the long runs of all plans, with the runs of one plan after those of another."""
    firsts, bounds, runs, slots, weights = [0], [], [0], [], []
    for each in long:
        if each is not None:
            bounds.append(each.bounds + np.array([0, 0, len(runs) - 1]))
            runs += (runs[-1] + each.offsets[1:]).tolist()
            slots.append(each.slots)
            weights.append(each.weights)
        firsts.append(firsts[-1] + (0 if each is None else len(each.bounds)))
    return LongRuns(
        np.array(firsts, np.int64),
        _joined(bounds, (0, fields.PART_FIELDS), np.int64),
        np.array(runs, np.int64),
        _joined(slots, (0,), np.int64),
        _joined(weights, (0,), np.float32),
    )


class _Entries(NamedTuple):
    """The adapters of each token of one plan."""

    entries: NDArray[np.int64]
    slices: NDArray[np.int64]
    weights: NDArray[np.float32]
    inner_size: int


def _entries(plan: LoraPlan) -> _Entries:
    arrays = plan.arrays
    token, run = arrays.tokens[:, 0], arrays.tokens[:, 1]
    ends = np.concatenate([[0], arrays.slices[:, 1].cumsum()])
    ranks = (ends[arrays.offsets[1:]] - ends[arrays.offsets[:-1]])[run]
    entries = np.empty((len(token), fields.ENTRY_FIELDS), np.int64)
    entries[:, fields.TOKEN] = token
    entries[:, fields.FIRST_SLICE] = arrays.offsets[run]
    entries[:, fields.LAST_SLICE] = arrays.offsets[run + 1]
    entries[:, fields.INNER_PLACE] = ranks.cumsum() - ranks
    return _Entries(entries, arrays.slices, arrays.weights, int(ranks.sum()))


def _joined(parts: list[Any], empty: tuple[int, ...], dtype: Any) -> Any:
    return np.ascontiguousarray(np.concatenate(parts)) if parts else np.empty(empty, dtype)
