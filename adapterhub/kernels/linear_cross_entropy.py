"""Cross entropy over a large vocabulary without keeping the logits.

Logits are made a chunk of positions at a time, turned into the loss and at once into the
gradient of the hidden states, and thrown away. Peak memory is one chunk of logits instead
of all of them, and the chunk stays in the cache between the two uses. The head is frozen,
so it gets no gradient. Source of the idea: Hsu et al. 2024, "Liger Kernel",
arXiv:2410.10989, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_POSITIONS = 256


class LinearCrossEntropy(torch.autograd.Function):
    """``sum_i cross_entropy(h_i Wᵀ, t_i)``, differentiable in ``h`` only."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float
    ) -> Tensor:
        """Sum the loss over positions.

        Args:
            hidden: ``[positions, width]``.
            weight: ``[vocabulary, width]``, frozen, of the type of ``hidden``.
            targets: ``[positions]`` int64.
            smoothing: share of the target spread evenly over the vocabulary.

        Returns:
            A float32 scalar.
        """
        total = hidden.new_zeros((), dtype=torch.float32)
        needs_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(hidden) if needs_grad else None
        for start in range(0, hidden.shape[0], CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            loss, grad_part = _chunk(hidden[part], weight, targets[part], smoothing, needs_grad)
            total += loss
            if grad is not None:
                grad[part] = grad_part
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient that the forward pass made."""
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the summed cross entropy of ``hidden @ weight.T`` against ``targets``.

    Args:
        hidden: ``[positions, width]``.
        weight: ``[vocabulary, width]``; must not require a gradient.
        targets: ``[positions]`` int64.
        smoothing: label smoothing as in ``torch.nn.functional.cross_entropy``.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: when ``weight`` requires a gradient, which this function would drop.
    """
    if weight.requires_grad:
        raise ValueError("linear_cross_entropy needs a frozen weight")
    return LinearCrossEntropy.apply(hidden, weight, targets, smoothing)


def _chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the chunk's summed loss and, if wanted, its gradient ``[positions, width]``."""
    log_probs = F.log_softmax(F.linear(hidden, weight), dim=-1, dtype=torch.float32)
    index = targets.unsqueeze(1)
    loss = -(1 - smoothing) * log_probs.gather(1, index).sum()
    if smoothing:
        loss -= smoothing * log_probs.mean(dim=-1).sum()
    if not needs_grad:
        return loss, None
    # d loss / d logits = softmax - (1 - e) onehot - e / vocabulary
    slope = log_probs.exp_()
    if smoothing:
        slope.sub_(smoothing / weight.shape[0])
    slope.scatter_add_(1, index, slope.new_full(index.shape, smoothing - 1.0))
    return loss, slope.to(hidden.dtype) @ weight
