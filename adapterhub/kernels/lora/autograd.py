"""Frozen linear layer with a LoRA adapter, forward and backward as one autograd function.

    y = x Wᵀ + b + s ((k ∘ x) Aᵀ) Bᵀ,   k the mask of inverted dropout

The explicit backward pass saves only ``x`` and ``x Aᵀ``, accumulates the adapter's term in place
into the large product, and dequantizes ``W`` twice per step without keeping it.
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class LoraLinearFunction(torch.autograd.Function):
    """Differentiable in ``x``, ``a`` and ``b``; the frozen weight gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        weight: Callable[[], Tensor],
        bias: Tensor | None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer.

        Args:
            x: Input ``[num_tokens, in]`` in the compute type.
            a: ``A``, ``[rank, in]``, usually float32.
            b: ``B``, ``[out, rank]``, usually float32.
            weight: Function that returns ``W`` ``[out, in]`` in the compute type; called once here
                and once in the backward pass.
            keep: Dropout mask ``k`` ``[num_tokens, in]``, if any.

        Returns:
            Output ``[num_tokens, out]`` in the compute type.
        """
        a_c, b_c = a.to(x.dtype), (b * scale).to(x.dtype)
        y = torch.nn.functional.linear(x, weight(), bias)
        inner = (x if keep is None else x * keep) @ a_c.t()
        y.addmm_(inner, b_c.t())
        ctx.save_for_backward(x, inner, a_c, b_c, keep)
        ctx.weight = weight
        ctx.scale = scale
        ctx.dtypes = a.dtype, b.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, ``a`` and ``b`` in their types."""
        (grad,) = grads
        x, inner, a_c, b_c, keep = ctx.saved_tensors
        a_type, b_type = ctx.dtypes
        grad_inner = grad @ b_c
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.weight()
            if keep is None:
                grad_x.addmm_(grad_inner, a_c)
            else:
                grad_x.addcmul_(grad_inner @ a_c, keep)
        dropped = x if keep is None else x * keep
        grad_a = (grad_inner.t() @ dropped).to(a_type) if ctx.needs_input_grad[1] else None
        grad_b = (grad.t() @ inner).to(b_type).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        return grad_x, grad_a, grad_b, None, None, None, None
