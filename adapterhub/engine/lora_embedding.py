"""Embeddings of the backbone to which each row's own adapter is added.

peft's LoRA on an embedding looks a token up in ``A`` and multiplies what it finds by ``B``
(``Embedding`` in ``peft/tuners/lora/layer.py``). Nothing is held for adapters that have none:
a table over the vocabulary is as large as its adapter makes it, and goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from adapterhub.engine.forward_context import get_forward_context

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class LoraEmbedding:
    """An embedding, left where it is, and the pairs of the adapters that have one for it.

    Args:
        base: the embedding.
        number: of the site, which steps and slots know it by.
        dtype: compute type of the backbone.
    """

    def __init__(self, base: nn.Embedding, number: int, dtype: torch.dtype) -> None:
        self.base = base
        self.number = number
        self.dtype = dtype
        #: first rank row to [vocabulary, rank] and [rank, hidden]
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        #: first rank row of a DoRA adapter to what the embedding is multiplied by, [hidden]
        self._gains: dict[int, Tensor] = {}
        self._hook: RemovableHandle | None = None

    @property
    def in_features(self) -> int:
        return int(self.base.num_embeddings)

    @property
    def out_features(self) -> int:
        return int(self.base.embedding_dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all pairs."""
        return sum(tensor.nbytes for pair in self._pairs.values() for tensor in pair)

    def make_tables(self, rows: int, device: torch.device) -> None:
        """Do nothing: an adapter brings its own."""

    def write_rows(self, row: int, a: Tensor, b: Tensor, gain: Tensor | None = None) -> None:
        """Copy an adapter in.

        Args:
            row: first of its rank rows, which it is known by.
            a: ``[rank, vocabulary]``.
            b: ``[rank, hidden]``.
            gain: of DoRA, ``[hidden]``.
        """
        device = self.base.weight.device
        # Gemma multiplies its embeddings, and peft what it adds to them
        scale = getattr(self.base, "embed_scale", None)
        up = b.float() if scale is None else b.float() * scale.to(self.dtype).float().to(b.device)
        self._pairs[row] = (a.t().contiguous().to(device), up.to(device, self.dtype))
        if gain is not None:
            self._gains[row] = gain.to(device, torch.float32)
        if self._hook is None:
            self._hook = self.base.register_forward_hook(self._add)

    def forget_rows(self, row: int) -> None:
        """Drop an adapter; the embedding is untouched again when the last one goes."""
        self._pairs.pop(row, None)
        self._gains.pop(row, None)
        if not self._pairs:
            self.close()

    def close(self) -> None:
        """Leave the embedding as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _add(self, _base: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        step = get_forward_context()
        plan = step.plan(self.number) if step is not None else None
        if plan is None:
            return None
        ids = args[0].reshape(-1)
        rows = output.reshape(-1, output.shape[-1])
        for start, end, parts in plan.runs:
            total = rows[start:end].float()
            gain = self._gains.get(parts[0].start)
            if gain is not None:
                total = total * gain
            for row, _, weight in parts:
                a, b = self._pairs[row]
                total = total + weight * (a[ids[start:end]].float() @ b.float())
            rows[start:end] = total.to(rows.dtype)
        return rows.view(output.shape)
