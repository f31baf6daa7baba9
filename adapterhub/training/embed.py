"""Embed texts with a frozen backbone: the mean of their hidden states."""

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
    from adapterhub.tasks.base import Task


def embed_examples(model: TaskModel, task: Task, examples: Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the mean hidden state of each example in the base model, ``[examples, hidden]``.

    An example that the task reads in windows is embedded by its first window; one that the task
    can't encode is left out.

    Args:
        model: Model whose backbone embeds, without its adapter.
        task: Task that encodes the examples.
        examples: Labelled examples.

    Returns:
        float32 on the CPU.

    Raises:
        DataError: naming the example that can't be used.
    """
    firsts = [task.windows(each)[0] if task.reads_windows else each for each in examples]
    encoded = [task.encode(each, number, train=True) for number, each in enumerate(firsts, start=1)]
    # every token counts, not only those that the head reads
    whole = [
        replace(each, select=range(len(each)), targets=()) for each in encoded if each is not None
    ]
    means = torch.zeros(len(whole), model.backbone.base_model.config.hidden_size)
    with torch.no_grad(), model.disable_adapter():
        for indices in batches_by_length([len(each) for each in whole], EVALUATION_TOKENS):
            batch = [whole[index] for index in indices]
            hidden = model.hidden(pack(batch).to(model.backbone.device)).float().cpu()
            split = hidden.split([len(each) for each in batch])
            means[indices] = torch.stack([states.mean(dim=0) for states in split])
    return means
