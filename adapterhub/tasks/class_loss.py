"""Cross entropy of a classification head, with class weights and label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from adapterhub.tasks.labels import class_weight_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.tasks.base import TaskOptions


class ClassLoss:
    """The summed loss, and what to divide it by.

    ``total / divisor`` over any set of batches equals
    ``torch.nn.functional.cross_entropy(..., reduction="mean")`` over all their targets:
    torch divides by the summed weights of the target classes, with label smoothing too.
    Source: ``cross_entropy_loss_label_smoothing`` in ATen's ``LossNLL.cpp``.
    """

    def __init__(
        self, labels: Sequence[str], options: TaskOptions, counts: Mapping[str, int] | None
    ) -> None:
        """Fix the weights.

        Raises:
            RecipeError: when ``options.class_weights`` does not fit the labels.
        """
        values = class_weight_values(labels, options.class_weights, counts)
        # [classes] float32, or None
        self.weights = None if values is None else torch.tensor(values)
        self.smoothing = options.label_smoothing

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss summed over targets, a float32 scalar.

        Args:
            logits: ``[n, classes]``.
            targets: ``[n]`` int64.
        """
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(
            logits.float(),
            targets,
            weight=weights,
            reduction="sum",
            label_smoothing=self.smoothing,
        )

    def divisor(self, targets: Tensor) -> float:
        """Return the number of targets, or the summed weight of their classes."""
        if self.weights is None:
            return float(targets.numel())
        return float(self.weights[targets.cpu()].sum())
