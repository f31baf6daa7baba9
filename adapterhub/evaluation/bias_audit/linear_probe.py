"""What the backbone does by itself: a head learned on its frozen states, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from adapterhub.backbones.heads import VisionHead
from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.evaluation.bias_audit.inference import BATCH_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.heads import TextHead
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Task

#: Steps of L-BFGS at most, and weights of the squared norm that are tried.
_STEPS, _DECAYS = 60, (1.0, 10.0, 100.0)
#: So few examples are not halved.
_FEW = 20


#: Features, ``[selected, hidden]``, and the batch that they are of.
Part: TypeAlias = "tuple[Tensor, PackedBatch]"


class LinearProbe:
    """A linear layer over what the adapter's own head reads, with the backbone's pooler."""

    def __init__(
        self, stock: TextHead, linear: nn.Linear, mean: Tensor, scale: Tensor, rows: int
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


def fit_linear_probe(
    model: TaskModel, task: Task, examples: Sequence[EncodedExample]
) -> LinearProbe:
    """Learn a head on the bare backbone's states by the task's own loss.

    How strongly its weights are held down is chosen by the loss on a fifth of the examples that
    it did not learn from. Equal arguments give an equal head: nothing is drawn at random.

    Args:
        model: in evaluation mode; its own weights are left alone.
        task: with labels.
        examples: with their targets.
    """
    held_out = examples[::5] if len(examples) > _FEW else examples
    learned = [each for place, each in enumerate(examples) if place % 5] or examples
    parts, judged = _features(model, learned), _features(model, held_out)
    together = torch.cat([features for features, _ in parts])
    mean, scale = together.mean(0), together.std(0, correction=0).clamp_min(1e-6)
    heads = [_learn(task, _scaled(parts, mean, scale), decay) for decay in _DECAYS]
    with torch.no_grad():
        losses = [float(_loss(task, head, _scaled(judged, mean, scale))) for head in heads]
    best = heads[losses.index(min(losses))]
    return LinearProbe(_text_head(model), best, mean, scale, len(examples))


def _text_head(model: TaskModel) -> TextHead:
    head = model.head
    assert not isinstance(head, VisionHead), "pictures have no words to exchange"
    return head


def _learn(task: Task, parts: Sequence[Part], decay: float) -> nn.Linear:
    """Return the linear layer of least loss over scaled features, without a gradient."""
    features = parts[0][0]
    linear = nn.Linear(features.shape[1], len(task.labels), device=features.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = _loss(task, linear, parts) + 0.5 * decay * linear.weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return linear.requires_grad_(False)


def _loss(task: Task, linear: nn.Linear, parts: Sequence[Part]) -> Tensor:
    losses = [task.loss(linear, features, batch) for features, batch in parts]
    return torch.stack(losses).sum()


def _scaled(parts: Sequence[Part], mean: Tensor, scale: Tensor) -> list[Part]:
    return [((features - mean) / scale, batch) for features, batch in parts]


def _features(model: TaskModel, examples: Sequence[EncodedExample]) -> list[Part]:
    """Return what a head reads of the bare backbone, ``[selected, hidden]`` a batch."""
    found = []
    with torch.no_grad(), model.disable_adapter():
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            found.append((_text_head(model).features(model.hidden(batch)).float(), batch))
    return found
