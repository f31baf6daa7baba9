"""Element-wise parts of a Llama-style decoder layer on CPUs as autograd functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from adapterhub.kernels import decoder_layer_training as loops
from adapterhub.kernels.decoder_layer_cpu import add_and_normalize
from adapterhub.kernels.numba_support import as_array

if TYPE_CHECKING:
    from torch import Tensor


class AddAndNormalizeFunction(torch.autograd.Function):
    """RMS norm of a sum, whose frozen weight gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return ``x + added`` and its norm, both shaped as ``x``.

        Args:
            x: Residual stream ``[..., hidden]``.
            added: Output of the previous block, shaped as ``x``, or ``None`` to add nothing.
            weight: Weight of the norm ``[hidden]``.
            epsilon: Epsilon of the norm.
        """
        total = x.contiguous() if added is None else x + added
        flat = total.view(-1, total.shape[-1])
        normal = torch.empty_like(total)
        array = as_array(flat)
        add_and_normalize(
            array, array[:0], as_array(weight.detach()), epsilon, as_array(normal.view_as(flat))
        )
        ctx.save_for_backward(total, weight)
        ctx.epsilon, ctx.adds = epsilon, added is not None
        return total, normal

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of both summands."""
        total, weight = ctx.saved_tensors
        d_total, d_normal = (each.contiguous() for each in grads)
        width = total.shape[-1]
        found = torch.empty_like(total)
        loops.normalize_backward(
            as_array(total.view(-1, width)),
            as_array(weight.detach()),
            ctx.epsilon,
            as_array(d_normal.view(-1, width)),
            as_array(d_total.view(-1, width)),
            as_array(found.view(-1, width)),
        )
        return found, found if ctx.adds else None, None, None


class GateFunction(torch.autograd.Function):
    """``silu(gates) ∘ values`` of two contiguous tensors, which keeps no activation."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, values: Tensor) -> Tensor:
        """Return the gated values, shaped as ``values``."""
        out = torch.empty_like(values)
        loops.gate_forward(*(_flat(each) for each in (gates, values, out)))
        ctx.save_for_backward(gates, values)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of gates and values."""
        gates, values = ctx.saved_tensors
        found = torch.empty_like(gates), torch.empty_like(values)
        grad = grads[0].contiguous()
        loops.gate_backward(*(_flat(each) for each in (gates, values, grad, *found)))
        return found


class RotateFunction(torch.autograd.Function):
    """Rotary embeddings of queries or keys."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return ``x`` rotated.

        Args:
            x: ``[num_tokens, heads, head_dim]``, contiguous.
            cosine: Cosines ``[num_tokens, head_dim]`` in the type of ``x``, contiguous.
            sine: Sines, shaped as ``cosine``.
        """
        ctx.save_for_backward(cosine, sine)
        return _rotated(x, cosine, sine, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``x``."""
        return _rotated(grads[0].contiguous(), *ctx.saved_tensors, back=True), None, None


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor, *, back: bool) -> Tensor:
    out = torch.empty_like(x)
    loops.rotate(as_array(x), as_array(cosine), as_array(sine), back, as_array(out))
    return out


def _flat(x: Tensor) -> Any:
    return as_array(x.detach().view(-1, x.shape[-1]))
