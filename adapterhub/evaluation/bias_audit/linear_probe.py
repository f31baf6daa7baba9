"""Linear probe: a head trained on frozen features of the backbone without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from adapterhub.data.packing import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.evaluation.bias_audit.inference import AuditedAdapter
    from adapterhub.tasks.base import Task

#: Maximum number of L-BFGS steps, and candidates of the weight decay.
_STEPS, _DECAYS = 60, (1.0, 10.0, 100.0)
#: Number of examples up to which none are held out.
_FEW = 20
#: Features, ``[selected, hidden]``, and their batch.
FeatureBatch: TypeAlias = "tuple[Tensor, PackedBatch]"


class LinearProbe:
    """Linear layer over standardized hidden states, where the adapter's own head reads them."""

    def __init__(self, linear: nn.Linear, mean: Tensor, scale: Tensor, num_examples: int) -> None:
        """Create the probe.

        Args:
            linear: Layer over standardized features.
            mean: Mean of each feature, ``[hidden]``.
            scale: Standard deviation of each feature, ``[hidden]``.
        """
        self.num_examples = num_examples
        self._linear = linear
        self._mean = mean
        self._scale = scale

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[n, hidden]`` to logits ``[n, classes]``."""
        return self._linear((hidden - self._mean) / self._scale)


def fit_linear_probe(adapter: AuditedAdapter, examples: Sequence[EncodedExample]) -> LinearProbe:
    """Train a probe on the backbone's features by the task's own loss.

    The weight decay is chosen by the loss on a held-out fifth of the examples. Equal arguments
    give an equal probe.
    """
    held_out = examples[::5] if len(examples) > _FEW else examples
    training = [each for place, each in enumerate(examples) if place % 5] or examples
    task = adapter.task
    train_batches, test_batches = _features(adapter, training), _features(adapter, held_out)
    features = torch.cat([batch for batch, _ in train_batches])
    mean, scale = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    heads = [_fit(task, _standardized(train_batches, mean, scale), decay) for decay in _DECAYS]
    with torch.no_grad():
        losses = [float(_loss(task, h, _standardized(test_batches, mean, scale))) for h in heads]
    best = heads[losses.index(min(losses))]
    return LinearProbe(best, mean, scale, len(examples))


def _fit(task: Task, batches: Sequence[FeatureBatch], decay: float) -> nn.Linear:
    features = batches[0][0]
    linear = nn.Linear(features.shape[1], len(task.labels), device=features.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = _loss(task, linear, batches) + 0.5 * decay * linear.weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return linear.requires_grad_(False)


def _loss(task: Task, linear: nn.Linear, batches: Sequence[FeatureBatch]) -> Tensor:
    return torch.stack([task.loss(linear, features, batch) for features, batch in batches]).sum()


def _standardized(
    batches: Sequence[FeatureBatch], mean: Tensor, scale: Tensor
) -> list[FeatureBatch]:
    return [((features - mean) / scale, batch) for features, batch in batches]


def _features(adapter: AuditedAdapter, examples: Sequence[EncodedExample]) -> list[FeatureBatch]:
    """Return the base model's states that the head reads, ``[selected, hidden]``, in one batch."""
    states = adapter.states(examples, with_adapter=False)
    return [(torch.cat(states), pack(examples))]
