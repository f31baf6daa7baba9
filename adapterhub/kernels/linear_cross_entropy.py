"""Cross entropy over a large vocabulary that does not materialise all logits.

Logits are computed for a chunk of positions, turned into the loss and at once into the gradient of
the hidden states, and discarded. Peak memory is one chunk of logits, which stays in the cache
between the two uses. The head is frozen and gets no gradient. torch's chunked
``linear_cross_entropy`` has no label smoothing and returns a bfloat16 loss for bfloat16 inputs.
Source of the method: Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adapterhub.kernels.cross_entropy_cpu import cross_entropy
from adapterhub.kernels.numba_support import as_array

CHUNK_POSITIONS = 256


class LinearCrossEntropyFunction(torch.autograd.Function):
    """``sum_i cross_entropy(h_i Wᵀ, t_i)``, differentiable in ``h`` only."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float
    ) -> Tensor:
        """Return the summed loss and save its gradient; see ``linear_cross_entropy``."""
        total = hidden.new_zeros((), dtype=torch.float32)
        needs_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(hidden) if needs_grad else None
        for start in range(0, hidden.shape[0], CHUNK_POSITIONS):
            chunk = slice(start, start + CHUNK_POSITIONS)
            loss, slope = _chunk(hidden[chunk], weight, targets[chunk], smoothing, needs_grad)
            total += loss
            if grad is not None:
                grad[chunk] = slope
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient computed by the forward pass."""
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the summed cross entropy of ``hidden @ weight.T`` against ``targets``.

    Args:
        hidden: Hidden states ``[num_positions, hidden]``.
        weight: Frozen output embeddings ``[vocab_size, hidden]`` in the type of ``hidden``.
        targets: Token ids ``[num_positions]``, int64.
        smoothing: Label smoothing as in ``torch.nn.functional.cross_entropy``.

    Returns:
        A float32 scalar, differentiable in ``hidden``.

    Raises:
        ValueError: If ``weight`` requires a gradient, which would not be computed.
    """
    if weight.requires_grad:
        raise ValueError("weight must be frozen; call weight.requires_grad_(False)")
    return LinearCrossEntropyFunction.apply(hidden, weight, targets, smoothing)


def _chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Return a chunk's summed loss and, if needed, its gradient ``[num_positions, hidden]``."""
    logits = F.linear(hidden, weight)
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16):
        losses = torch.empty(len(logits))
        cross_entropy(as_array(logits), as_array(targets), smoothing, needs_grad, as_array(losses))
        return losses.sum(), logits @ weight if needs_grad else None
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
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
