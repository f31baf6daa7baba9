"""Full fine-tuning of a recipe's backbone, as a baseline of an adapter.

It uses the training loop of adapters, with the same examples in the same batches. The weights are
unquantized float32, computed in bfloat16 (autocast), with the dropout of the backbone and weight
decay; its learning rate is lower than that of an adapter.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from adapterhub.backbones.backbone import Backbone, load_backbone
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.head_construction import build_head
from adapterhub.backbones.task_forward import LogitsHead, TaskForward, TaskHead
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.training.evaluate import Predictions, score_encoded
from adapterhub.training.loop import LoopResult, TrainingLoop
from adapterhub.training.prepare import PreparedData, label_log_odds, prepare_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from adapterhub.data.dataset import Dataset
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Task
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe

WEIGHT_DECAY = 0.01


class FullModel(nn.Module):
    """transformers' model with every weight trainable.

    Args:
        forward: Forward passes of the model.
        backbone: Backbone that it was built from.
    """

    def __init__(self, forward: TaskForward, backbone: Backbone) -> None:
        super().__init__()
        self.stock = forward.heads.model
        self.backbone = backbone
        self._forward = forward

    @property
    def head(self) -> TaskHead | LogitsHead:
        """Head that the task's loss reads."""
        return self._forward.head

    def hidden(self, batch: PackedBatch) -> Tensor:
        """Return what the head reads, ``[num_selected, width]``."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._forward.outputs(batch)

    def forward(self, batch: PackedBatch, loss: Callable[..., Tensor]) -> Tensor:
        """Return the task's loss of a batch."""
        hidden = self.hidden(batch)
        with torch.autocast("cpu", torch.bfloat16):
            return loss(self.head, hidden, batch)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the trainable parameters with their names."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


def train_full(
    recipe: Recipe, learning_rate: float, reporter: Reporter
) -> tuple[Task, Predictions, LoopResult]:
    """Train every weight, and return the task, the best predictions and the result of the loop."""
    recipe = _with_rate(recipe, learning_rate)
    data = prepare_data(recipe)
    backbone = load_backbone(recipe.backbone.name, QuantizationSpec("none", "float32"))
    set_seed(recipe.train.seed)
    task = _task(recipe, data, backbone)
    paths, heads = forward_paths(backbone), build_head(backbone, task.head, task.labels)
    model: Any = FullModel(TaskForward(heads, backbone, paths, has_prefix=False), backbone)
    if recipe.task.multi_label:
        heads.output_layer.get_parameter("bias").data = torch.tensor(label_log_odds(data))
    model.requires_grad_(True)
    training = [encoded for _, encoded in _encoded(task, data.splits["train"], train=True)]
    windows, validation = zip(*_encoded(task, data.splits["validation"], train=False), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = TrainingLoop(
            recipe=recipe,
            run_digest="",
            model=model,
            task=task,
            examples=training,
            evaluate=lambda: score_encoded(model, task, windows, validation),
            accelerator=Accelerator(cpu=True),
            reporter=reporter,
            folder=Path(folder),
        ).run(resume=False)
    return task, outcome.after, outcome


def _with_rate(recipe: Recipe, learning_rate: float) -> Recipe:
    optimizer = recipe.optimizer.model_copy(
        update={"learning_rate": learning_rate, "weight_decay": WEIGHT_DECAY, "head_ratio": 1.0}
    )
    return recipe.model_copy(update={"optimizer": optimizer})


def _task(recipe: Recipe, data: PreparedData, backbone: Backbone) -> Task:
    return build_task(
        recipe.task.name,
        backbone.preprocessor,
        backbone.kind,
        list(data.label_counts),
        TaskOptions.of_section(recipe.task.model_dump()),
        data.label_counts,
    )


def _encoded(
    task: Task, dataset: Dataset, *, train: bool
) -> list[tuple[Mapping[str, Any], EncodedExample]]:
    """Return examples or their windows with their encodings, without those that have no targets."""
    found = []
    for number, example in zip(dataset.numbers, dataset.examples, strict=True):
        for window in task.windows(example) if task.reads_windows else [example]:
            encoded = task.encode(window, number, train=train)
            if encoded is not None:
                found.append((window, encoded))
    return found
