"""Attention within rows laid end to end, forward and backward as one function.

    O = softmax(s Q Kᵀ + mask) V, row by row

Neighbouring rows of equal length go through one batched product. The query heads that
share a key head are folded into the query length, so keys are never repeated. Nothing of
size length x length is kept between the passes: the backward pass makes the probabilities
again from the log-sum-exp that torch's fused kernel returns. Sources: Dao et al. 2022,
arXiv:2205.14135, appendix B.2, for the gradients; Ainslie et al. 2023, arXiv:2305.13245,
for grouped heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Queries handled at a time in causal attention: keys after the block are skipped whole.
QUERY_BLOCK = 256

#: Rows up to this length are multiplied in float32: the library builds a program for every
#: shape of a product in bfloat16, which takes longer than a small product itself.
SHORT_ROW = 128


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """What the rows look like and what each position may see.

    Args:
        lengths: tokens of each row, in order; positions after the last row get zeros.
        prefix: positions at the start of the keys that every row sees.
        causal: whether a position sees only itself and what lies before it.
        window: how far back a position sees, itself included; ``None`` is no limit.
        scale: factor on the scores.
    """

    lengths: tuple[int, ...]
    prefix: int
    causal: bool
    window: int | None
    scale: float


def packed_attention(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> Tensor:
    """Attend within each row; differentiable in ``query``, ``key`` and ``value``.

    Args:
        query: ``[heads, tokens, dim]``.
        key: ``[key_heads, prefix + tokens, dim]``.
        value: shaped as ``key``.
        layout: the rows.

    Returns:
        ``[tokens, heads, dim]``, in the type of ``query``.
    """
    return PackedAttention.apply(query, key, value, layout)


class PackedAttention(torch.autograd.Function):
    """See :func:`packed_attention`.

    Torch's fused kernel makes the forward pass. The backward pass is written out, so that
    the gradients of all rows go straight into three tensors: autograd's own would make and
    add up a tensor of zeros of full size for every row.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout
    ) -> Tensor:
        """Attend run by run, keeping the log-sum-exp of each query."""
        heads, tokens, dim = query.shape
        out = query.new_empty(tokens, heads, dim)
        out[sum(layout.lengths) :] = 0
        saved: list[Tensor] = []
        for run in _runs(layout, heads // key.shape[0]):
            attended, log_z = _flash(run, query, key, value, layout)
            out[run.start : run.stop].view(run.rows, run.length, heads, dim).copy_(
                attended.transpose(1, 2)
            )
            saved.append(log_z)
        ctx.layout = layout
        ctx.save_for_backward(query, key, value, out, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        (grad,) = grads
        query, key, value, out, *saved = ctx.saved_tensors
        layout: AttentionLayout = ctx.layout
        d_query, d_key, d_value = map(torch.zeros_like, (query, key, value))
        # rowsum(dO * O): what the softmax takes off every dP
        delta = (grad.float() * out.float()).sum(dim=-1, keepdim=True)
        for run, log_z in zip(_runs(layout, query.shape[0] // key.shape[0]), saved, strict=True):
            narrow = torch.float32 if run.length <= SHORT_ROW else query.dtype
            for block in run.blocks(layout):
                q, k, v = block.queries(query), block.keys(key, layout), block.keys(value, layout)
                d_out = block.outputs(grad)
                probs = block.scores(q, k, layout).sub_(block.fold(log_z)).exp_()
                d_value_part = probs.to(narrow).transpose(-1, -2) @ d_out.to(narrow)
                block.add_keys(d_value, d_value_part, layout)
                d_probs = d_out.float() @ v.float().transpose(-1, -2)
                d_scores = d_probs.sub_(block.outputs(delta)).mul_(probs).to(narrow)
                block.store_queries(d_query, (d_scores @ k.to(narrow)).mul_(layout.scale))
                scaled = q.to(narrow) * layout.scale
                block.add_keys(d_key, d_scores.transpose(-1, -2) @ scaled, layout)
        return d_query, d_key, d_value, None


def _flash(
    run: _Block, query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout
) -> tuple[Tensor, Tensor]:
    """Return ``[rows, heads, length, dim]`` and the log-sum-exp ``[rows, heads, length]``."""
    q = query[:, run.start : run.stop].unflatten(1, (run.rows, run.length)).transpose(0, 1)
    hidden = run.hidden(layout, q.device) if layout.prefix or layout.window else None
    mask = None if hidden is None else q.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q,
        run.keys(key, layout),
        run.keys(value, layout),
        0.0,
        layout.causal and mask is None,
        attn_mask=mask,
        scale=layout.scale,
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries ``first`` to ``last`` of each of ``rows`` equal rows that begin at token ``start``.

    Blocks are shaped ``[rows, key_heads, groups * queries, dim]``, and keys
    ``[rows, key_heads, visible, dim]``.
    """

    start: int
    rows: int
    length: int
    first: int
    last: int
    groups: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.length

    def blocks(self, layout: AttentionLayout) -> Iterator[_Block]:
        """Cut a whole run along its queries, where later keys can be left out."""
        step = QUERY_BLOCK if layout.causal else self.length
        for first in range(0, self.length, step):
            yield replace(self, first=first, last=min(first + step, self.length))

    def fold(self, log_z: Tensor) -> Tensor:
        """Cut the run's ``[rows, heads, length]`` as scores are cut, with a last axis of 1."""
        part = log_z[:, :, self.first : self.last]
        return part.unflatten(1, (-1, self.groups)).flatten(2, 3).unsqueeze(-1)

    def queries(self, query: Tensor) -> Tensor:
        heads, _, dim = query.shape
        part = query[:, self.start : self.stop]
        part = part.unflatten(1, (self.rows, self.length))[:, :, self.first : self.last]
        # [key_heads, groups, rows, queries, dim] -> [rows, key_heads, groups * queries, dim]
        part = part.unflatten(0, (heads // self.groups, self.groups))
        return part.permute(2, 0, 1, 3, 4).reshape(self.rows, heads // self.groups, -1, dim)

    def store_queries(self, target: Tensor, values: Tensor) -> None:
        heads, _, dim = target.shape
        part = target[:, self.start : self.stop]
        part = part.unflatten(1, (self.rows, self.length))[:, :, self.first : self.last]
        grouped = values.unflatten(2, (self.groups, self.last - self.first))
        part.copy_(grouped.permute(1, 2, 0, 3, 4).reshape(heads, self.rows, -1, dim))

    def outputs(self, out: Tensor) -> Tensor:
        """Cut ``[tokens, heads, dim]`` into the block's shape."""
        _, heads, dim = out.shape
        part = out[self.start : self.stop]
        part = part.unflatten(0, (self.rows, self.length))[:, self.first : self.last]
        part = part.unflatten(2, (heads // self.groups, self.groups))
        return part.permute(0, 2, 3, 1, 4).reshape(self.rows, heads // self.groups, -1, dim)

    def keys(self, key: Tensor, layout: AttentionLayout) -> Tensor:
        own = self._own(key, layout).transpose(0, 1)
        if not layout.prefix:
            return own
        shared = key[:, : layout.prefix].unsqueeze(0).expand(self.rows, -1, -1, -1)
        return torch.cat((shared, own), dim=2)

    def add_keys(self, target: Tensor, values: Tensor, layout: AttentionLayout) -> None:
        if layout.prefix:
            target[:, : layout.prefix] += values[:, :, : layout.prefix].sum(dim=0)
            values = values[:, :, layout.prefix :]
        self._own(target, layout).add_(values.transpose(0, 1))

    def scores(self, q: Tensor, k: Tensor, layout: AttentionLayout) -> Tensor:
        """Return masked scores ``[rows, key_heads, groups * queries, visible]`` in float32."""
        # float32: a score of 20 rounded to bfloat16 would move its weight by 6 %
        scores = (q.float() * layout.scale) @ k.float().transpose(-1, -2)
        hidden = self.hidden(layout, q.device)
        if hidden is not None:
            scores.unflatten(2, (self.groups, -1)).masked_fill_(hidden, -math.inf)
        return scores

    def _own(self, key: Tensor, layout: AttentionLayout) -> Tensor:
        """View the rows' own keys as ``[key_heads, rows, visible, dim]``."""
        begin = layout.prefix + self.start
        part = key[:, begin : begin + self.rows * self.length]
        part = part.unflatten(1, (self.rows, self.length))
        return part[:, :, : self.last] if layout.causal else part

    def hidden(self, layout: AttentionLayout, device: torch.device) -> Tensor | None:
        """Return which keys each query may not see, ``[queries, visible]``, if any."""
        if not layout.causal:
            return None
        queries = torch.arange(self.first, self.last, device=device).unsqueeze(1)
        keys = torch.arange(-layout.prefix, self.last, device=device).unsqueeze(0)
        hidden = keys > queries
        return hidden if layout.window is None else hidden | (queries - keys >= layout.window)


def _runs(layout: AttentionLayout, groups: int) -> Iterator[_Block]:
    """Yield one whole block for each run of neighbouring rows of equal length."""
    start = 0
    for length, members in groupby(layout.lengths):
        rows = len(list(members))
        yield _Block(start, rows, length, 0, length, groups)
        start += rows * length
