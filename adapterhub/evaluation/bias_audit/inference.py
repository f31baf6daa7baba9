"""Predictions with and without the adapter, and the time limit of an audit."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Head, Task
    from adapterhub.tasks.fields import Example

#: Maximum number of tokens per forward pass.
BATCH_TOKENS = 2048


class Deadline:
    """Time limit that is checked between batches."""

    def __init__(self, seconds: float) -> None:
        """Start the time limit, ``seconds`` from now."""
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end


def encode_examples(
    task: Task, examples: Sequence[Example], *, train: bool
) -> list[EncodedExample | None]:
    """Encode examples, with ``None`` for an invalid one."""
    encoded: list[EncodedExample | None] = []
    for number, example in enumerate(examples, start=1):
        try:
            encoded.append(task.encode(example, number, train=train))
        except DataError:
            # a substitution may make an example invalid
            encoded.append(None)
    return encoded


def hidden_batches(
    model: TaskModel, examples: Sequence[EncodedExample], *, with_adapter: bool
) -> Iterator[tuple[Sequence[int], PackedBatch, Tensor]]:
    """Yield positions, batch and hidden states of examples, batched by length."""
    with torch.no_grad(), adapter_context(model, with_adapter=with_adapter):
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            yield indices, batch, model.hidden(batch)


def feature_batches(
    model: TaskModel, examples: Sequence[EncodedExample]
) -> Iterator[tuple[Sequence[int], PackedBatch, Tensor]]:
    """Yield positions, batch and the head's input without the adapter, batched by length."""
    with torch.no_grad(), adapter_context(model, with_adapter=False):
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            yield indices, batch, model.features(batch)


def predict(
    model: TaskModel,
    task: Task,
    examples: Sequence[EncodedExample],
    head: Head,
    *,
    with_adapter: bool,
) -> list[Any]:
    """Return the raw prediction of each example, as ``Task.decode`` returns it.

    Args:
        head: The model's own head, or with ``with_adapter`` unset a probe over its input.
    """
    found: list[Any] = [None] * len(examples)
    batches = (
        hidden_batches(model, examples, with_adapter=True)
        if with_adapter
        else feature_batches(model, examples)
    )
    for indices, batch, hidden in batches:
        for index, output in zip(indices, task.decode(head, hidden, batch), strict=True):
            found[index] = output
    return found


def adapter_context(model: TaskModel, *, with_adapter: bool) -> AbstractContextManager[Any]:
    """Return a context in which the adapter's layers run, or do not."""
    return nullcontext() if with_adapter else model.disable_adapter()
