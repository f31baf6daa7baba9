"""What a head says of rows, with the adapter or on the bare backbone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Head, Task
    from adapterhub.tasks.fields import Example

#: Tokens computed at once.
BATCH_TOKENS = 2048


def encoded(task: Task, rows: Sequence[Example], *, train: bool) -> list[EncodedExample | None]:
    """Return each row's example, ``None`` for one that the task can't read.

    Args:
        task: that reads the rows.
        rows: with the task's fields.
        train: the rows must have their labels.
    """
    found: list[EncodedExample | None] = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(task.encode(row, number, train=train))
        except DataError:
            # an exchange of words may leave a row that is none
            found.append(None)
    return found


def decoded(
    model: TaskModel, task: Task, examples: Sequence[EncodedExample], head: Head, *, bare: bool
) -> list[Any]:
    """Return the raw prediction of each example, as ``Task.decode`` gives it.

    Args:
        model: in evaluation mode.
        task: that encoded the examples.
        examples: in any order.
        head: that is read.
        bare: without the adapter's layers.
    """
    found: list[Any] = [None] * len(examples)
    without = model.disable_adapter() if bare else nullcontext()
    with torch.no_grad(), without:
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            outputs = task.decode(head, model.hidden(batch), batch)
            for index, output in zip(indices, outputs, strict=True):
                found[index] = output
    return found
