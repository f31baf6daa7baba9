"""Packed attention with matrix tiles as an autograd function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.kernels import amx
from adapterhub.kernels.attention import tiles
from adapterhub.kernels.attention.tiles_backward import attend_backward
from adapterhub.kernels.numba_support import as_array

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.attention.layout import AttentionParams, PackedSequences

#: Window of attention without one.
_NO_WINDOW = 1 << 40


def fits_tiles(query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> bool:
    """Return whether tiles can compute attention, shaped as in ``attend_packed``."""
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.shape[1] == key.shape[1]
        and query.shape[2] % amx.DEPTH == 0
        and value.shape == key.shape
        and not any(sequences.prefixes)
        and amx.has_amx()
    )


class TiledAttention(torch.autograd.Function):
    """Packed attention in bfloat16; see ``attend_packed``."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: PackedSequences,
        params: AttentionParams,
    ) -> Tensor:
        """Attend and save the log-sum-exp of each query."""
        q, k, v = (each.transpose(0, 1).contiguous() for each in (query, key, value))
        out = torch.empty_like(q)
        out[sum(sequences.lengths) :] = 0
        log_z = query.new_empty(query.shape[:2], dtype=torch.float32)
        batch = _batch(sequences, params)
        tiles.attend_forward(
            as_array(q), as_array(k), as_array(v), batch, as_array(out), as_array(log_z)
        )
        ctx.batch, ctx.tokens = batch, sum(sequences.lengths)
        ctx.save_for_backward(q, k, v, out, log_z)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        q, k, v, out, log_z = ctx.saved_tensors
        d_query, d_key, d_value = found = [torch.empty_like(each) for each in (q, k, v)]
        for each in found:
            each[ctx.tokens :] = 0
        attend_backward(
            as_array(q),
            as_array(k),
            as_array(v),
            as_array(out),
            as_array(log_z),
            as_array(grads[0].contiguous()),
            ctx.batch,
            as_array(d_query),
            as_array(d_key),
            as_array(d_value),
        )
        return *(each.transpose(0, 1) for each in found), None, None


def _batch(sequences: PackedSequences, params: AttentionParams) -> tiles.TileBatch:
    """Return the sequences and the mask for compiled code."""
    lengths = np.array(sequences.lengths, np.int64)
    return tiles.TileBatch(
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        causal=params.causal,
        window=_NO_WINDOW if params.window is None else params.window,
        scale=float(params.scale),
        configuration=amx.CONFIGURATION.ctypes.data,
    )
