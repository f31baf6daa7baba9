"""Full fine-tuning of a recipe's backbone, to compare an adapter with.

It runs through the loop that adapters run through, on the same rows in the same order of
batches. The weights are unquantized and float32, computed in bfloat16 (autocast), with the
backbone's own dropout and weight decay; the learning rate is full fine-tuning's own, which
is smaller than an adapter's.
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
from adapterhub.backbones.heads import (
    TextHead,
    VisionHead,
    build_head_model,
    head_name,
    image_features,
)
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import ATTENTION_NAME, install_attention
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


class WholeModel(nn.Module):
    """transformers' class with every weight trainable, run over packed rows."""

    def __init__(self, stock: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.stock = stock
        self.backbone = backbone

    @property
    def head(self) -> TextHead | VisionHead:
        return VisionHead(self.stock) if self.backbone.kind == "vision" else TextHead(self.stock)

    def hidden(self, batch: PackedBatch) -> Tensor:
        if batch.pixels is not None:
            with torch.autocast("cpu", torch.bfloat16):
                return image_features(self.stock, batch.pixels)
        inputs: dict[str, Any] = {}
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids.unsqueeze(0)
        if self.backbone.kind == "decoder":
            inputs["use_cache"] = False
        body = getattr(self.stock, self.stock.base_model_prefix)
        with torch.autocast("cpu", torch.bfloat16):
            output = body(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=batch.position_ids.unsqueeze(0),
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
                packed=PackedSequences(batch.lengths),
                **inputs,
            )
        return output.last_hidden_state[0, batch.select]

    def forward(self, batch: PackedBatch, loss: Callable[..., Tensor]) -> Tensor:
        hidden = self.hidden(batch)
        with torch.autocast("cpu", torch.bfloat16):
            return loss(self.head, hidden, batch)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


def train_whole(
    recipe: Recipe, learning_rate: float, reporter: Reporter
) -> tuple[Task, Predictions, LoopResult]:
    """Train every weight and return the task, the best predictions and what the run came to."""
    recipe = _with_rate(recipe, learning_rate)
    data = prepare_data(recipe)
    backbone = load_backbone(recipe.backbone.name, QuantizationSpec("none", "float32"))
    set_seed(recipe.train.seed)
    task = _task(recipe, data, backbone)
    if backbone.kind != "vision":
        install_attention()
        backbone.base_model.config._attn_implementation = ATTENTION_NAME
    model: Any = WholeModel(build_head_model(backbone, task.head, task.labels), backbone)
    if recipe.task.multi_label:
        head = model.stock.get_submodule(head_name(model.stock))
        head.bias.data = torch.tensor(label_log_odds(data))
    model.requires_grad_(True)
    learned = [example for _, example in _encoded(task, data.splits["train"], train=True)]
    rows, examples = zip(*_encoded(task, data.splits["validation"], train=False), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = TrainingLoop(
            recipe=recipe,
            run_digest="",
            model=model,
            task=task,
            examples=learned,
            evaluate=lambda: score_encoded(model, task, rows, examples),
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
    task: Task, rows: Dataset, *, train: bool
) -> list[tuple[Mapping[str, Any], EncodedExample]]:
    """Return the rows, or windows of rows, that have something to learn from or to score."""
    found = []
    for number, row in zip(rows.numbers, rows.examples, strict=True):
        for window in task.windows(row) if task.reads_windows else [row]:
            example = task.encode(window, number, train=train)
            if example is not None:
                found.append((window, example))
    return found
