"""Attention within the sequences of a packed batch, for training and pooling.

    O = softmax(s Q Kᵀ + mask) V, sequence by sequence

On a CPU with matrix tiles, bfloat16 is computed by ``tiled``. Elsewhere neighbouring sequences of
equal length are computed in one batched product. When gradients are needed on a CPU, forward and
backward are one function: the query heads that share a key head are folded into the query length,
so keys are never repeated, and nothing of size length x length is kept between the passes, because
the backward pass recomputes the probabilities from the log-sum-exp that torch's fused kernel
returns.
Sources: Dao et al. 2022, arXiv:2205.14135, appendix B.2, for the gradients; Ainslie et al. 2023,
arXiv:2305.13245, for grouped heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adapterhub.kernels.attention.layout import attend, needs_mask, prepend, visible_keys
from adapterhub.kernels.attention.tiled import TiledAttention, fits_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.kernels.attention.layout import AttentionParams, PackedSequences, SequenceRun

#: Number of queries per block in causal attention; keys after the block are skipped.
QUERY_BLOCK = 256

#: Length up to which sequences are multiplied in float32: oneDNN generates code for every shape of
#: a bfloat16 product, which takes longer than a small product itself.
SHORT_SEQUENCE = 128


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: PackedSequences,
    params: AttentionParams,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Attend within each sequence; differentiable in ``query``, ``key`` and ``value``.

    Args:
        query: ``[heads, num_tokens, head_dim]``.
        key: ``[kv_heads, prefix + num_tokens, head_dim]``; every sequence sees the prefix.
        value: Shaped as ``key``.

    Returns:
        ``[num_tokens, heads, head_dim]`` in the type of ``query``; zeros for padding.
    """
    tokens = query.shape[1]
    on_cpu = query.device.type == "cpu"
    if on_cpu and not dropout and fits_tiles(query, key, value, sequences):
        return TiledAttention.apply(query, key, value, sequences, params)
    if on_cpu and torch.is_grad_enabled() and not dropout and not sequences.prefixes:
        return PackedAttention.apply(query, key, value, sequences, params)
    shared = key.shape[1] - tokens
    parts = []
    for run in sequences.runs():
        keys, values = run.of(key, shared), run.of(value, shared)
        if shared:
            keys, values = prepend(key[:, :shared], keys), prepend(value[:, :shared], values)
        if run.prefix is not None:
            keys = prepend(run.prefix.keys[params.layer].transpose(0, 1), keys)
            values = prepend(run.prefix.values[params.layer].transpose(0, 1), values)
        attended = attend(run.of(query), keys, values, params, dropout=dropout)
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    attended = torch.cat(parts)
    return F.pad(attended, (0, 0, 0, 0, 0, tokens - len(attended)))


class PackedAttention(torch.autograd.Function):
    """Packed attention on CPUs without matrix tiles; see ``attend_packed``.

    The gradients of all sequences are written straight into three tensors; autograd's own backward
    pass would allocate and add a full-size tensor of zeros for every run.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: PackedSequences,
        params: AttentionParams,
    ) -> Tensor:
        """Attend run by run and save the log-sum-exp of each query."""
        heads, tokens, dim = query.shape
        blocks = _whole_runs(query, key, sequences, params)
        out = query.new_empty(tokens, heads, dim)
        out[sum(sequences.lengths) :] = 0
        saved: list[Tensor] = []
        for block in blocks:
            run = block.run
            attended, log_z = _flash(block, query, key, value)
            out[run.start : run.end].view(run.count, run.length, heads, dim).copy_(
                attended.transpose(1, 2)
            )
            saved.append(log_z)
        ctx.blocks = blocks
        ctx.save_for_backward(query, key, value, out, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        (grad,) = grads
        query, key, value, out, *saved = ctx.saved_tensors
        d_query, d_key, d_value = map(torch.zeros_like, (query, key, value))
        # rowsum(dO * O), which the softmax subtracts from every dP
        delta = (grad.float() * out.float()).sum(dim=-1, keepdim=True)
        for whole, log_z in zip(ctx.blocks, saved, strict=True):
            narrow = torch.float32 if whole.run.length <= SHORT_SEQUENCE else query.dtype
            scale = whole.params.scale
            for block in whole.split():
                q, k, v = block.queries(query), block.keys(key), block.keys(value)
                d_out = block.outputs(grad)
                probs = block.scores(q, k).sub_(block.fold(log_z)).exp_()
                d_value_part = probs.to(narrow).transpose(-1, -2) @ d_out.to(narrow)
                block.add_keys(d_value, d_value_part)
                d_probs = d_out.float() @ v.float().transpose(-1, -2)
                d_scores = d_probs.sub_(block.outputs(delta)).mul_(probs).to(narrow)
                block.store_queries(d_query, (d_scores @ k.to(narrow)).mul_(scale))
                scaled = q.to(narrow) * scale
                block.add_keys(d_key, d_scores.transpose(-1, -2) @ scaled)
        return d_query, d_key, d_value, None, None


def _whole_runs(
    query: Tensor, key: Tensor, sequences: PackedSequences, params: AttentionParams
) -> list[_Block]:
    """Return one block of all queries for each run."""
    groups, prefix = query.shape[0] // key.shape[0], key.shape[1] - query.shape[1]
    return [
        _Block(run, params, 0, run.length, groups=groups, prefix=prefix) for run in sequences.runs()
    ]


def _flash(block: _Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[count, heads, length, dim]`` and the log-sum-exp ``[count, heads, length]``."""
    q, mask = block.run.of(query), None
    if block.needs_mask:
        visible = block.visible(q.device)
        mask = q.new_zeros(visible.shape).masked_fill_(~visible, -math.inf)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q,
        block.keys(key),
        block.keys(value),
        0.0,
        # torch aligns its causal mask with the first key, and a lone query is the last position
        block.params.causal and mask is None and q.shape[2] > 1,
        attn_mask=mask,
        scale=block.params.scale,
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries ``first`` to ``last`` of each sequence of a run.

    Blocks of queries are shaped ``[count, kv_heads, groups * queries, dim]``, keys
    ``[count, kv_heads, context, dim]``. Causal blocks have no keys after ``last``.

    Args:
        first: First query.
        last: One past the last query.
        groups: Number of query heads per key head.
        prefix: Number of keys before those of the first token.
    """

    run: SequenceRun
    params: AttentionParams
    first: int
    last: int
    groups: int
    prefix: int

    def split(self) -> Iterator[_Block]:
        """Split a whole run along its queries, where later keys can be skipped."""
        length = self.run.length
        step = QUERY_BLOCK if self.params.causal else length
        for first in range(0, length, step):
            yield replace(self, first=first, last=min(first + step, length))

    def fold(self, log_z: Tensor) -> Tensor:
        """Return the block of ``[count, heads, length]``, shaped as scores of one key."""
        part = log_z[:, :, self.first : self.last]
        return part.unflatten(1, (-1, self.groups)).flatten(2, 3).unsqueeze(-1)

    def queries(self, query: Tensor) -> Tensor:
        """Return the block of ``[heads, num_tokens, dim]``."""
        part = self.run.of(query)[:, :, self.first : self.last]
        return part.unflatten(1, (-1, self.groups)).flatten(2, 3)

    def store_queries(self, target: Tensor, values: Tensor) -> None:
        """Write the block to ``[heads, num_tokens, dim]``."""
        part = self.run.of(target)[:, :, self.first : self.last]
        part.copy_(values.unflatten(2, (self.groups, -1)).flatten(1, 2))

    def outputs(self, out: Tensor) -> Tensor:
        """Return the block of ``[num_tokens, heads, dim]``."""
        return self.queries(out.transpose(0, 1))

    def keys(self, key: Tensor) -> Tensor:
        """Return the keys that the block sees of ``[kv_heads, prefix + num_tokens, dim]``."""
        own = self._own(key)
        return prepend(key[:, : self.prefix], own) if self.prefix else own

    def add_keys(self, target: Tensor, values: Tensor) -> None:
        """Add a gradient of ``keys`` to ``[kv_heads, prefix + num_tokens, dim]``."""
        if self.prefix:
            target[:, : self.prefix] += values[:, :, : self.prefix].sum(dim=0)
            values = values[:, :, self.prefix :]
        self._own(target).add_(values)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return masked scores ``[count, kv_heads, groups * queries, context]`` in float32."""
        # float32: a score of 20 rounded to bfloat16 would change its weight by 6 %
        scores = (q.float() * self.params.scale) @ k.float().transpose(-1, -2)
        if self.params.causal or self.needs_mask:
            hidden = ~self.visible(q.device)
            scores.unflatten(2, (self.groups, -1)).masked_fill_(hidden, -math.inf)
        return scores

    @property
    def needs_mask(self) -> bool:
        """Whether SDPA needs a mask for these queries."""
        return needs_mask(self.last - self.first, self.prefix + self.last, self.params)

    def visible(self, device: torch.device) -> Tensor:
        """Return which keys each query sees, ``[queries, context]``."""
        queries, context = self.last - self.first, self.prefix + self.last
        return visible_keys(queries, context, self.params, device)

    def _own(self, key: Tensor) -> Tensor:
        """View the sequences' own keys as ``[count, kv_heads, visible, dim]``."""
        return self.run.of(key, self.prefix)[:, :, : self.last]
