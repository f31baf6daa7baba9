"""Does a small adapter on a 4-bit backbone reach what training the whole backbone reaches?

Physics: an adapter of rank r moves each weight matrix by a matrix of rank r, and the 4-bit
rounding of the frozen weights is noise that it has to make up for. Full fine-tuning moves
every weight, of the unquantized backbone. Both run through the same loop on the same rows,
in the same order of batches; full fine-tuning keeps float32 weights, computes in bfloat16
(autocast), uses the backbone's own dropout, and its usual smaller learning rate.

    python benchmarks/quality.py recipes/conll2003-ner.yaml [key.path=value ...]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor, nn

from adapterhub.backbones.backbone import Backbone, load_backbone
from adapterhub.backbones.heads import StockHead, stock_model
from adapterhub.backbones.packed_attention import ATTENTION_NAME, install_packed_attention
from adapterhub.backbones.vision import VisionHead, head_inputs
from adapterhub.cli.console import hush_libraries
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.training.evaluate import evaluate
from adapterhub.training.loop import Loop
from adapterhub.training.memory import keep_freed_memory
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import PlainReporter
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from adapterhub.data.packing import PackedBatch
    from adapterhub.training.recipe import Recipe

#: Learning rates of full fine-tuning that were tried; the best result is reported.
FULL_LEARNING_RATES = (1e-4,)


class WholeModel(nn.Module):
    """transformers' class with every weight trainable, run over packed rows."""

    def __init__(self, stock: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.stock = stock
        self.backbone = backbone

    @property
    def head(self) -> StockHead | VisionHead:
        return VisionHead(self.stock) if self.backbone.kind == "vision" else StockHead(self.stock)

    def hidden(self, batch: PackedBatch) -> Tensor:
        if batch.pixels is not None:
            return head_inputs(self.stock, batch.pixels)
        body = getattr(self.stock, self.stock.base_model_prefix)
        output = body(
            input_ids=batch.input_ids.unsqueeze(0),
            position_ids=batch.position_ids.unsqueeze(0),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            row_lengths=batch.lengths,
        )
        return output.last_hidden_state[0, batch.select]

    def forward(self, batch: PackedBatch, loss: Callable[..., Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(self.head, self.hidden(batch), batch)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


def train_whole(recipe: Recipe, learning_rate: float) -> dict[str, Any]:
    """Train every weight and return the validation metrics of the best evaluation."""
    recipe = recipe.model_copy(
        update={
            "optimizer": recipe.optimizer.model_copy(
                update={"learning_rate": learning_rate, "weight_decay": 0.01, "head_ratio": 1.0}
            )
        }
    )
    data = prepare_data(recipe)
    backbone = load_backbone(recipe.backbone.name, QuantizationSpec("none", "float32"))
    set_seed(recipe.train.seed)
    task = build_task(
        recipe.task.name,
        backbone.preprocessor,
        backbone.kind,
        list(data.label_counts),
        TaskOptions(max_length=recipe.task.max_length, image_size=recipe.task.image_size),
        data.label_counts,
    )
    if backbone.kind != "vision":
        install_packed_attention()
        backbone.body.config._attn_implementation = ATTENTION_NAME
    stock = stock_model(backbone, task.head, task.labels).requires_grad_(True)
    model = WholeModel(stock, backbone)
    examples = {
        split: [task.encode(r, n, train=True) for n, r in zip(rows.numbers, rows.rows, strict=True)]
        for split, rows in data.splits.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            recipe=recipe,
            recipe_digest="",
            model=model,
            task=task,
            examples=examples["train"],
            evaluate=lambda: evaluate(
                model, task, data.splits["validation"].rows, examples["validation"]
            ),
            accelerator=Accelerator(cpu=True),
            reporter=PlainReporter(Console(stderr=True)),
            folder=Path(folder),
        )
        outcome = loop.run(resume=False)
    return {
        "metrics": {k: round(v, 4) for k, v in outcome.after.metrics.items()},
        "learning_rate": learning_rate,
        "seconds": round(outcome.progress.seconds),
        "trained": sum(p.numel() for _, p in model.trainable()),
    }


def train_adapter(recipe: Recipe) -> dict[str, Any]:
    """Train the recipe as it stands."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            recipe, output=Path(folder) / "run", reporter=PlainReporter(Console(stderr=True))
        )
        return {
            "metrics": {k: round(v, 4) for k, v in result.after.items()},
            "before": {k: round(v, 4) for k, v in result.before.items()},
            "seconds": round(result.seconds),
            "tokens_per_second": round(result.tokens_per_second),
            "trained_share": round(result.trained_share, 5),
            "artifact_mb": round(result.artifact_bytes / 1e6, 2),
            "digest": result.digest,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--only", choices=("adapter", "full"))
    parser.add_argument("--full-rate", type=float, action="append")
    arguments = parser.parse_args()
    hush_libraries()
    keep_freed_memory()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    began = time.time()
    result: dict[str, Any] = {"recipe": recipe.name, "overrides": arguments.overrides}
    if arguments.only != "full":
        result["adapter"] = train_adapter(recipe)
    if arguments.only != "adapter":
        rates = arguments.full_rate or FULL_LEARNING_RATES
        result["full"] = [train_whole(recipe, rate) for rate in rates]
    result["wall_seconds"] = round(time.time() - began)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
