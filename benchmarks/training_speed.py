"""How many real tokens a second does training an adapter take in, beside transformers.Trainer?

Physics: with the backbone frozen, a step needs one product with each weight forward and one
backward for the gradient of the activations, about 4 FLOPs a weight and token, and 2 and 2
more at the positions where there is loss for the language-model head. What the peer does
beyond that is waste: products over padding, logits where nothing is learned, copies in
float32, memory given back to the kernel and cleared again.

Both sides train the same LoRA on the same rows, 8 a batch, in the same precision, with the
same learning rates, one after the other in processes of their own, in turns. Counted are
tokens that are not padding, over the time inside steps. Then both score the same held-out
rows.

The peer shuffles as it does by default. With ``--peer-order ours`` it is handed our batches,
rows of similar length together: that spares it padding, and makes the losses comparable
step by step.

    python benchmarks/training_speed.py --data ../shared/data/customer_service [--steps 16]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BACKBONE = "smollm2-135m-instruct"
BATCH = 8
RANK = 16
LEARNING_RATE = 5e-4
HELD_OUT_ROWS = 40


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "speed",
        "backbone": {
            "name": BACKBONE,
            "quantization": arguments.quantization,
            "compute_dtype": "bfloat16",
        },
        "task": {"name": "dialogue", "max_length": 512},
        "data": {
            "train": str(arguments.data / "train.jsonl"),
            "validation": str(arguments.data / "dev.jsonl"),
            "fields": {"prompt": "instruction"},
            "limit_train": arguments.steps * BATCH,
            "limit_validation": HELD_OUT_ROWS,
        },
        "adapter": {"method": "lora", "rank": RANK, "alpha": 2 * RANK},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "train": {"batch_size": BATCH, "steps": arguments.steps},
    }


def run_ours(arguments: argparse.Namespace) -> dict[str, float]:
    from adapterhub.training.recipe_file import parse_recipe
    from adapterhub.training.train import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(parse_recipe(recipe_of(arguments)), output=Path(folder) / "run")
    return {"tokens_per_second": result.tokens_per_second, "held_out_loss": result.after["loss"]}


def run_trainer(arguments: argparse.Namespace) -> dict[str, float]:
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
    recipe = parse_recipe(recipe_of(arguments))
    data = prepare_data(recipe)
    task = build_task("dialogue", tokenizer, "decoder", [], TaskOptions(max_length=512))

    def features(split: str) -> list[dict[str, list[int]]]:
        encoded = []
        for row in data.splits[split].examples:
            example = task.encode(row, 1, train=True)
            ids = [*example.input_ids, example.targets[-1]]
            labels = [-100] * len(ids)
            for at, target in zip(example.select, example.targets, strict=True):
                labels[at + 1] = target
            encoded.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)})
        return encoded

    rows = features("train")
    if arguments.peer_order == "ours":
        plan = plan_batches(
            [len(row["input_ids"]) - 1 for row in rows],
            batch_size=BATCH,
            batch_tokens=None,
            seed=recipe.train.seed,
            epoch=0,
            shuffle=True,
        )
        rows = [rows[index] for batch in plan for index in batch]
    quantized = {}
    if arguments.quantization != "none":
        quantized["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=arguments.quantization,
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

    def collate(rows: list[dict[str, list[int]]]) -> Any:
        tokens[0] += sum(len(row["input_ids"]) for row in rows)
        return collator(rows)

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
                max_steps=arguments.steps,
                learning_rate=LEARNING_RATE,
                warmup_steps=round(0.06 * arguments.steps),
                bf16=True,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_steps=1000,
                disable_tqdm=True,
                train_sampling_strategy=(
                    "sequential" if arguments.peer_order == "ours" else "random"
                ),
            ),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[Clock()],
        )
        trainer.train()
    return {
        "tokens_per_second": tokens[0] / sum(durations),
        "held_out_loss": held_out_loss(model, features("validation")),
    }


def held_out_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    import torch
    from torch.nn import functional as F

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
            count += int((labels != -100).sum())
    return total / count


def measure(arguments: argparse.Namespace, side: str, quantization: str) -> dict[str, float]:
    """Run one side in a process of its own and return what it printed last."""
    command = [sys.executable, __file__, "--data", str(arguments.data), "--side", side]
    command += ["--steps", str(arguments.steps), "--quantization", quantization]
    command += ["--peer-order", arguments.peer_order]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{side} failed:\n{result.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    print(
        f"{quantization:5} {side:8} {measured['tokens_per_second']:7.1f} tokens/s   "
        f"held-out loss {measured['held_out_loss']:.4f}",
        flush=True,
    )
    return measured


def compare(arguments: argparse.Namespace, quantization: str) -> dict[str, Any]:
    """Measure both sides in turns; the ratio is taken pair by pair."""
    pairs = [
        [measure(arguments, side, quantization) for side in ("trainer", "ours")]
        for _ in range(arguments.rounds)
    ]
    ratios = [ours["tokens_per_second"] / peer["tokens_per_second"] for peer, ours in pairs]
    return {
        "trainer_tokens_per_second": [round(p["tokens_per_second"], 1) for p, _ in pairs],
        "ours_tokens_per_second": [round(o["tokens_per_second"], 1) for _, o in pairs],
        "ratio_median": round(statistics.median(ratios), 2),
        "trainer_held_out_loss": round(pairs[0][0]["held_out_loss"], 4),
        "ours_held_out_loss": round(pairs[0][1]["held_out_loss"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "trainer"))
    parser.add_argument("--quantization", default=None)
    parser.add_argument("--peer-order", choices=("random", "ours"), default="random")
    arguments = parser.parse_args()
    if arguments.side:
        run = run_ours if arguments.side == "ours" else run_trainer
        print(json.dumps(run(arguments)))
        return
    schemes = [arguments.quantization] if arguments.quantization else ["nf4", "none"]
    print(json.dumps({scheme: compare(arguments, scheme) for scheme in schemes}))


if __name__ == "__main__":
    main()
