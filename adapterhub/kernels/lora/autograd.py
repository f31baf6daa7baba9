"""A frozen linear layer with a low-rank adapter, forward and backward as one function.

    y = x Wᵀ + b + s ((k ∘ x) Aᵀ) Bᵀ,   k the dropout's factors

Written out by hand, the backward pass needs only ``x`` and ``x Aᵀ``, adds the adapter's
share into the result of the large product in place, and expands a quantized ``W`` twice a
step without keeping it. Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
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
            x: ``[tokens, in]`` in the compute type.
            a: ``[rank, in]``, usually float32.
            b: ``[out, rank]``, usually float32.
            scale: ``s`` of the formula.
            weight: returns ``W`` as ``[out, in]`` in the compute type; called once here
                and once in the backward pass.
            bias: ``[out]`` or ``None``.
            keep: factors of inverted dropout on the adapter's input, ``[tokens, in]``.

        Returns:
            ``[tokens, out]`` in the compute type.
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
        """Return gradients of ``x``, ``a`` and ``b``, the last two in their own types."""
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
