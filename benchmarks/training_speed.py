"""How many tokens per second does adapter training process, compared to transformers' Trainer?

Physics: with a frozen backbone, a step needs one product with each weight forward and one backward
for the gradient of the activations, about 4 FLOPs per weight and token, and 2 and 2 more for the
language-model head at the positions that have a loss. All further work of the Trainer is overhead:
products over padding, logits at positions without a loss, copies in float32, memory that is
returned to the kernel and cleared again.

Both sides train the same LoRA on the same examples, 8 per batch, with the same precision and
learning rate, in processes of their own, alternately. Tokens that are not padding are counted,
over the time inside steps. Then both sides evaluate the same held-out examples.

The Trainer shuffles by default. With ``--trainer-batches adapterhub`` it gets the batches of this
library, which have examples of similar length: that reduces its padding and makes the losses
comparable step by step.

    python benchmarks/training_speed.py --data ../shared/data/customer_service [--steps 16]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_common import run_script

BACKBONE = "smollm2-135m-instruct"
BATCH = 8
RANK = 16
LEARNING_RATE = 5e-4
HELD_OUT_EXAMPLES = 40


#: Encoded example of transformers' collator: ``input_ids``, ``labels`` and ``attention_mask``.
Features = dict[str, list[int]]


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe that both sides train."""
    return {
        "name": "speed",
        "backbone": {
            "name": BACKBONE,
            "quantization": options.quantization,
            "compute_dtype": "bfloat16",
        },
        "task": {"name": "dialogue", "max_length": 512},
        "data": {
            "train": str(options.data / "train.jsonl"),
            "validation": str(options.data / "dev.jsonl"),
            "fields": {"prompt": "instruction"},
            "limit_train": options.steps * BATCH,
            "limit_validation": HELD_OUT_EXAMPLES,
        },
        "adapter": {"method": "lora", "rank": RANK, "alpha": 2 * RANK},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "train": {"batch_size": BATCH, "steps": options.steps},
    }


def run_adapterhub(options: argparse.Namespace) -> dict[str, float]:
    """Train with this library."""
    from adapterhub.training.recipe_file import parse_recipe
    from adapterhub.training.train import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(parse_recipe(recipe_of(options)), output=Path(folder) / "run")
    return {"tokens_per_second": result.tokens_per_second, "held_out_loss": result.after["loss"]}


def run_trainer(options: argparse.Namespace) -> dict[str, float]:
    """Train with transformers' Trainer and peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    from adapterhub.backbones.sources import fetch_backbone
    from adapterhub.data.batching import plan_batches
    from adapterhub.tasks.base import TaskOptions
    from adapterhub.tasks.table import build_task
    from adapterhub.training.prepare import prepare_data
    from adapterhub.training.recipe_file import parse_recipe

    path = fetch_backbone(BACKBONE)
    tokenizer = AutoTokenizer.from_pretrained(path)
    recipe = parse_recipe(recipe_of(options))
    data = prepare_data(recipe)
    task = build_task("dialogue", tokenizer, "decoder", [], TaskOptions(max_length=512))

    def features(split: str) -> list[Features]:
        found = []
        for example in data.splits[split].examples:
            encoded = task.encode(example, 1, train=True)
            ids = [*encoded.input_ids, encoded.targets[-1]]
            labels = [-100] * len(ids)
            for at, target in zip(encoded.select, encoded.targets, strict=True):
                labels[at + 1] = target
            found.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)})
        return found

    examples = features("train")
    if options.trainer_batches == "adapterhub":
        plan = plan_batches(
            [len(each["input_ids"]) - 1 for each in examples],
            batch_size=BATCH,
            batch_tokens=None,
            seed=recipe.train.seed,
            epoch=0,
            shuffle=True,
        )
        examples = [examples[index] for batch in plan for index in batch]
    quantized = {}
    if options.quantization != "none":
        quantized["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=options.quantization,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    set_seed(7)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, **quantized)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    tokens, durations = [0], []

    def collate(batch: list[Features]) -> Any:
        tokens[0] += sum(len(each["input_ids"]) for each in batch)
        return collator(batch)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            durations.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            durations[-1] += time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH,
                max_steps=options.steps,
                learning_rate=LEARNING_RATE,
                warmup_steps=round(0.06 * options.steps),
                bf16=True,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_steps=1000,
                disable_tqdm=True,
                train_sampling_strategy=(
                    "sequential" if options.trainer_batches == "adapterhub" else "random"
                ),
            ),
            train_dataset=examples,
            data_collator=collate,
            callbacks=[Clock()],
        )
        trainer.train()
    return {
        "tokens_per_second": tokens[0] / sum(durations),
        "held_out_loss": held_out_loss(model, features("validation")),
    }


def held_out_loss(model: Any, examples: list[Features]) -> float:
    """Return the mean loss per target token."""
    import torch
    from torch.nn import functional as F

    total, count = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"][1:])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
            count += int((labels != -100).sum())
    return total / count


def measure(options: argparse.Namespace, side: str, quantization: str) -> dict[str, float]:
    """Run one side in a process of its own."""
    measured = run_script(
        __file__,
        *("--data", str(options.data)),
        *("--side", side),
        *("--steps", str(options.steps)),
        *("--quantization", quantization),
        *("--trainer-batches", options.trainer_batches),
    )
    print(
        f"{quantization:5} {side:10} {measured['tokens_per_second']:7.1f} tokens/s   "
        f"held-out loss {measured['held_out_loss']:.4f}",
        flush=True,
    )
    return measured


def compare(options: argparse.Namespace, quantization: str) -> dict[str, Any]:
    """Measure both sides alternately; the ratio is the median over pairs."""
    pairs = [
        [measure(options, side, quantization) for side in ("trainer", "adapterhub")]
        for _ in range(options.rounds)
    ]
    ratios = [ours["tokens_per_second"] / peer["tokens_per_second"] for peer, ours in pairs]
    return {
        "trainer_tokens_per_second": [round(p["tokens_per_second"], 1) for p, _ in pairs],
        "adapterhub_tokens_per_second": [round(o["tokens_per_second"], 1) for _, o in pairs],
        "ratio_median": round(statistics.median(ratios), 2),
        "trainer_held_out_loss": round(pairs[0][0]["held_out_loss"], 4),
        "adapterhub_held_out_loss": round(pairs[0][1]["held_out_loss"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=("adapterhub", "trainer"))
    parser.add_argument("--quantization", default=None)
    parser.add_argument("--trainer-batches", choices=("random", "adapterhub"), default="random")
    options = parser.parse_args()
    if options.side:
        run = run_adapterhub if options.side == "adapterhub" else run_trainer
        print(json.dumps(run(options)))
        return
    schemes = [options.quantization] if options.quantization else ["nf4", "none"]
    print(json.dumps({scheme: compare(options, scheme) for scheme in schemes}))


if __name__ == "__main__":
    main()
