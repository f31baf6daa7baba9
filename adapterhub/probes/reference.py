"""What the backbone does by itself: a head learned on its frozen states, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.probes.reading import BATCH_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.heads import StockHead
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import Example, PackedBatch
    from adapterhub.tasks.base import Task

#: Steps of L-BFGS at most, and the weight of the squared norm, as scikit-learn's C of 1.
_STEPS, _DECAY = 60, 1.0


class FrozenHead:
    """A linear layer over what the adapter's own head reads, with the backbone's pooler."""

    def __init__(
        self, stock: StockHead, linear: nn.Linear, mean: Tensor, scale: Tensor, rows: int
    ) -> None:
        """Set up the head.

        Args:
            stock: whose features are read.
            linear: over scaled features.
            mean: of each feature, ``[hidden]``.
            scale: of each feature, ``[hidden]``.
            rows: that it was learned from.
        """
        self.rows = rows
        self._stock = stock
        self._linear = linear
        self._mean = mean
        self._scale = scale

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[n, hidden]`` to logits ``[n, classes]``."""
        return self._linear((self._stock.features(hidden) - self._mean) / self._scale)


def fit_head(model: TaskModel, task: Task, examples: Sequence[Example]) -> FrozenHead:
    """Learn a head on the bare backbone's states by the task's own loss.

    Equal arguments give an equal head: nothing is drawn at random.

    Args:
        model: in evaluation mode; its own weights are left alone.
        task: with labels.
        examples: with their targets.
    """
    parts = _features(model, examples)
    together = torch.cat([features for features, _ in parts])
    mean, scale = together.mean(0), together.std(0, correction=0).clamp_min(1e-6)
    linear = nn.Linear(together.shape[1], len(task.labels), device=together.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    scaled = [((features - mean) / scale, batch) for features, batch in parts]
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = 0.5 * _DECAY * linear.weight.square().sum()
        for features, batch in scaled:
            total = total + task.loss(linear, features, batch)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    linear.requires_grad_(False)
    return FrozenHead(model.head, linear, mean, scale, len(examples))


def _features(model: TaskModel, examples: Sequence[Example]) -> list[tuple[Tensor, PackedBatch]]:
    """Return what a head reads of the bare backbone, ``[selected, hidden]`` a batch."""
    found = []
    with torch.no_grad(), model.bare():
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            found.append((model.head.features(model.hidden(batch)).float(), batch))
    return found
