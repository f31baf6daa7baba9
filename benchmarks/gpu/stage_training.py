"""NF4 QLoRA on a Llama-3-8B-shaped backbone: tokens a second and peak memory, ours and peer.

Both sides train LoRA of rank 16 on all linear layers of the same frozen weights, on the same
examples of random tokens, eight a batch, in bfloat16 with AdamW. The peer is transformers'
Trainer with peft, which pads; counted are tokens that are not padding.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stage import RANK, random_backbone, stage_options, synchronize

from adapterhub.backbones.head_construction import build_head
from adapterhub.backbones.task_model import build_task_model
from adapterhub.data.packing import EncodedExample
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.training.loop import TrainingLoop
from adapterhub.training.progress import Reporters
from adapterhub.training.recipe_file import parse_recipe

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone

BATCH = 8
#: Steps that are measured, after as many that compile and fill the allocator's cache.
STEPS, WARM_UP = 5, 2


def main() -> None:
    """Measure the peer, then the project, on one backbone."""
    options = stage_options()
    backbone = random_backbone(options.shape, "nf4", options.device)
    examples = random_examples(backbone, shortest=16, longest=64 if options.tiny else 512)
    for name, side in (("transformers Trainer with peft", run_peer), ("adapterhub", run_ours)):
        if options.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds, tokens = side(backbone, examples)
        peak = torch.cuda.max_memory_allocated() if options.device.type == "cuda" else None
        options.record(
            f"NF4 QLoRA, {name}",
            kind="training",
            side=name,
            tokens_per_second=tokens / seconds,
            peak_bytes=peak,
        )


def random_examples(backbone: Backbone, *, shortest: int, longest: int) -> list[EncodedExample]:
    """Return examples of random tokens whose second half is learned."""
    draw, most = random.Random(0), backbone.config.vocab_size
    examples = []
    for number in range(BATCH * (STEPS + WARM_UP)):
        length = draw.randint(shortest, longest)
        ids = [draw.randrange(2, most) for _ in range(length + 1)]
        learned = range(length // 2, length)
        examples.append(
            EncodedExample(
                number + 1, ids[:-1], tuple(learned), tuple(ids[place + 1] for place in learned)
            )
        )
    return examples


def run_ours(backbone: Backbone, examples: list[EncodedExample]) -> tuple[float, int]:
    """Return seconds and tokens of the measured steps of the project's loop."""
    from accelerate import Accelerator

    recipe = parse_recipe(
        {
            "name": "speed",
            "backbone": {"name": "random", "quantization": "nf4"},
            "task": {"name": "dialogue", "max_length": 1024},
            "data": {"train": "none.jsonl", "validation": "none.jsonl"},
            "adapter": {"method": "lora", "rank": RANK, "alpha": 2 * RANK},
            "train": {"batch_size": BATCH, "steps": STEPS + WARM_UP},
        }
    )
    task = build_task(
        "dialogue", backbone.preprocessor, "decoder", [], TaskOptions(max_length=1024)
    )
    model = build_task_model(
        backbone,
        head=task.head,
        task_type=task.peft_task_type,
        labels=task.labels,
        adapter=recipe.adapter.spec(),
    )
    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(
            recipe=recipe,
            run_digest="",
            model=model,
            task=task,
            examples=examples,
            evaluate=no_evaluation,
            accelerator=Accelerator(cpu=backbone.device.type == "cpu", device_placement=False),
            reporter=Reporters([]),
            folder=Path(folder),
        )
        model.train()
        durations, tokens = [], []
        for batches in loop.batches.steps_from(loop.state):
            synchronize(backbone.device)
            began, before = time.perf_counter(), loop.state.tokens
            loop._step(batches)
            synchronize(backbone.device)
            durations.append(time.perf_counter() - began)
            tokens.append(loop.state.tokens - before)
    model.close()
    return sum(durations[WARM_UP:]), sum(tokens[WARM_UP:])


def no_evaluation() -> Any:
    """Stand for the evaluation, which is not measured."""
    raise NotImplementedError


def run_peer(backbone: Backbone, examples: list[EncodedExample]) -> tuple[float, int]:
    """Return seconds and tokens of the measured steps of transformers' Trainer with peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    set_seed(7)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(build_head(backbone, "causal_lm", ()).model, config)
    durations: list[float] = []

    class Clock(TrainerCallback):
        """Times whole steps on the device."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize(backbone.device)
            durations.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize(backbone.device)
            durations[-1] += time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH,
                max_steps=STEPS + WARM_UP,
                bf16=True,
                use_cpu=backbone.device.type == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                train_sampling_strategy="sequential",
            ),
            train_dataset=[features(example) for example in examples],
            data_collator=DataCollatorForSeq2Seq(backbone.preprocessor, padding=True),
            callbacks=[Clock()],
        ).train()
    model.unload()
    measured = examples[BATCH * WARM_UP :]
    return sum(durations[WARM_UP:]), sum(len(example) for example in measured)


def features(example: EncodedExample) -> dict[str, list[int]]:
    """Return an example as transformers' Trainer reads it."""
    ids = [*example.input_ids, example.targets[-1]]
    labels = [-100] * len(ids)
    for place, target in zip(example.select, example.targets, strict=True):
        labels[place + 1] = target
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


if __name__ == "__main__":
    main()
