"""Where texts lie in the eyes of the frozen backbone: the mean of their hidden states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.training.evaluate import EVALUATION_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from torch import Tensor

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Task


def embed_examples(model: TaskModel, task: Task, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the mean hidden state of each row in the bare backbone, ``[rows, hidden]`` float32.

    A row that the task reads in windows is embedded by its first; one that the task can't read
    is left out.

    Args:
        model: whose backbone embeds; its adapter takes no part.
        task: that encodes the rows.
        rows: with their answers.

    Raises:
        DataError: naming the row that can't be used.
    """
    firsts = [task.windows(row)[0] if task.reads_windows else row for row in rows]
    encoded = [task.encode(row, number, train=True) for number, row in enumerate(firsts, start=1)]
    # every position is read, whatever the head reads
    whole = [
        replace(each, select=range(len(each)), targets=()) for each in encoded if each is not None
    ]
    means = torch.zeros(len(whole), model.backbone.base_model.config.hidden_size)
    with torch.no_grad(), model.disable_adapter():
        for indices in batches_by_length([len(each) for each in whole], EVALUATION_TOKENS):
            means[indices] = _means(model, [whole[index] for index in indices])
    return means


def _means(model: TaskModel, examples: Sequence[EncodedExample]) -> Tensor:
    """Return the mean hidden state of each example, ``[examples, hidden]`` on the CPU."""
    hidden = model.hidden(pack(examples).to(model.backbone.device)).float().cpu()
    parts = hidden.split([len(example) for example in examples])
    return torch.stack([part.mean(dim=0) for part in parts])
