"""How the same tensor of several adapters becomes one; the arithmetic is peft's own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from peft.utils import merge_utils

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.composition.method import MergeMethod


def combine(tensors: Sequence[Tensor], weights: Sequence[float], method: MergeMethod) -> Tensor:
    """Return what a method makes of tensors of one shape.

    Args:
        tensors: one an adapter, all of one shape.
        weights: one an adapter; negative ones subtract.
        method: whose rule is used; DARE draws from torch's generator.

    Source: ``peft/utils/merge_utils.py``; TIES, Yadav et al. 2023 (arXiv:2306.01708); DARE,
    Yu et al. 2023 (arXiv:2311.03099).
    """
    stack, each = list(tensors), torch.tensor(weights)
    sign = method.majority_sign or "total"
    with warnings.catch_warnings():
        # peft warns where everything is kept, which is a right setting here
        warnings.filterwarnings("ignore", message="The density 1")
        match method.kind.rule:
            case "sum":
                return merge_utils.task_arithmetic(stack, each)
            case "magnitude_prune":
                return merge_utils.magnitude_prune(stack, each, method.kept)
            case "ties":
                return merge_utils.ties(stack, each, method.kept, sign)
            case "dare_linear":
                return merge_utils.dare_linear(stack, each, method.kept)
            case "dare_ties":
                return merge_utils.dare_ties(stack, each, method.kept, sign)
