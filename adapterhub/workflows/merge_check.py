"""Comparison of a merged checkpoint with the adapter on its quantized backbone."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from adapterhub.backbones.forward_paths import PADDED_ONLY, forward_paths
from adapterhub.backbones.head_model import HeadModel
from adapterhub.backbones.task_forward import TaskForward
from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.specs import QuantizationSpec
from adapterhub.training.evaluate import EVALUATION_TOKENS, encode_labelled
from adapterhub.workflows.model import model_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.specs import ComputeDtype
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What merging changed on labelled examples.

    Args:
        num_examples: Number of examples, or of windows of them.
        num_positions: Number of positions at which the head was read.
        kl: Mean Kullback-Leibler divergence of the checkpoint's distribution from the adapter's,
            in nats per position; ``None`` where the outputs are no distribution.
        agreement: Share of positions with the same largest output; ``None`` likewise.
        before: Metrics of the adapter on its backbone as trained.
        after: Metrics of the merged checkpoint.
    """

    num_examples: int
    num_positions: int
    kl: float | None
    agreement: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]


def compare_checkpoint(
    artifact: Artifact,
    task: Task,
    backbone: Backbone,
    merged: PreTrainedModel,
    dtype: ComputeDtype,
    examples: Sequence[Example],
) -> MergeCheck:
    """Compare a merged model with the adapter on its backbone, by transformers' own forward.

    Args:
        artifact: The adapter.
        task: Its task.
        backbone: Its backbone, quantized as in training, without an engine.
        merged: transformers' class with the adapter in its weights, in ``dtype``.
        examples: Labelled examples.

    Raises:
        DataError: Naming the example that can't be used.
    """
    kept, encoded = encode_labelled(task, examples)
    if not kept:
        raise DataError("no example has a label to compare with")
    forward = _forward_of(merged, task, backbone, dtype)
    sums, before, after = _Sums(), _Side(len(kept)), _Side(len(kept))
    with torch.no_grad(), closing(model_of(artifact, task, backbone)) as adapted:
        adapted.eval()
        for indices in batches_by_length([len(each) for each in encoded], EVALUATION_TOKENS):
            batch = _batch(encoded, indices).to(backbone.device)
            states = adapted.hidden(batch)
            outputs = forward.outputs(batch)
            before.add(task, adapted.head, states, batch, indices)
            after.add(task, forward.head, outputs, batch, indices)
            sums.add(adapted.head(states), forward.head(outputs))
    comparable = task.head != "span" and not _independent(artifact) and sums.width > 1
    return MergeCheck(
        num_examples=len(kept),
        num_positions=sums.positions,
        kl=sums.kl / sums.positions if comparable else None,
        agreement=sums.agreements / sums.positions if comparable else None,
        before=before.metrics(task, kept),
        after=after.metrics(task, kept),
    )


def _forward_of(
    merged: PreTrainedModel, task: Task, backbone: Backbone, dtype: ComputeDtype
) -> TaskForward:
    """Return the padded forward passes of a checkpoint."""
    model: Any = merged
    heads = HeadModel(model.to(backbone.device), task.head)
    plain = replace(
        backbone,
        base_model=heads.frozen_model,
        config=model.config,
        quantization=QuantizationSpec("none", dtype),
        verdicts={},
    )
    paths = replace(PADDED_ONLY, padding=forward_paths(backbone).padding)
    return TaskForward(heads, plain, paths, has_prefix=False)


def _batch(encoded: Sequence[EncodedExample], indices: Sequence[int]) -> PackedBatch:
    return pack([encoded[index] for index in indices])


def _independent(artifact: Artifact) -> bool:
    """Return whether the outputs are independent labels, not one distribution."""
    return bool(artifact.manifest.recipe["task"].get("multi_label"))


@dataclass(slots=True)
class _Sums:
    """Sums over positions of what compares two distributions."""

    positions: int = 0
    #: outputs of the head at a position
    width: int = 0
    kl: float = 0.0
    agreements: int = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add the logits of a batch, ``[positions, width]`` or, with frames, one axis more."""
        before, after = (each.double().flatten(0, -2) for each in (before, after))
        own, other = F.log_softmax(before, dim=-1), F.log_softmax(after, dim=-1)
        # frames beyond the end of a recording are certainly blank: both logarithms are infinite
        terms = torch.where(own.isfinite(), own.exp() * (own - other), 0.0)
        self.kl += float(terms.sum())
        self.agreements += int((before.argmax(-1) == after.argmax(-1)).sum())
        self.positions += len(before)
        self.width = before.shape[-1]


@dataclass(slots=True)
class _Side:
    """Predictions of one of the two models."""

    count: int
    loss: float = 0.0
    weight: float = 0.0
    decoded: dict[int, Any] = field(default_factory=dict)

    def add(
        self, task: Task, head: Any, hidden: Tensor, batch: PackedBatch, indices: Sequence[int]
    ) -> None:
        """Add the predictions for a batch."""
        self.loss += float(task.loss(head, hidden, batch))
        self.weight += task.weight(batch)
        self.decoded |= dict(zip(indices, task.decode(head, hidden, batch), strict=True))

    def metrics(self, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        """Return the mean loss and the task's metrics."""
        decoded = [self.decoded[index] for index in range(self.count)]
        loss = self.loss / self.weight if self.weight else 0.0
        return {"loss": loss, **task.evaluate(examples, decoded).metrics}
