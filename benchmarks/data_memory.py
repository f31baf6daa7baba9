"""Time and resident memory of training on few and on many examples.

Each size runs in a process of its own: a file of made-up texts is read, checked, split and encoded,
and a tiny encoder makes a few steps over it, so that the data is what takes memory.

    python benchmarks/data_memory.py --examples 10000 1000000

With --prepare-only nothing is encoded or trained.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY = [f"w{number}" for number in range(500)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_examples(path: Path, count: int) -> None:
    """Write texts of 5 to 40 words with one of ten labels."""
    draw = random.Random(count)
    with path.open("w") as file:
        for number in range(count):
            words = " ".join(draw.choices(VOCABULARY, k=draw.randint(5, 40)))
            example = {"id": number, "text": words, "label": f"label {draw.randrange(10)}"}
            file.write(json.dumps(example) + "\n")


def write_backbone(folder: Path) -> None:
    """Save an untrained encoder with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL, *VOCABULARY])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)


def run(folder: Path, count: int, *, prepare_only: bool) -> dict[str, float]:
    """Read, and train on, ``count`` examples; return seconds, and resident memory in MB."""
    from adapterhub.training.prepare import prepare_data
    from adapterhub.training.recipe_file import parse_recipe

    recipe = parse_recipe(
        {
            "name": "memory",
            "backbone": {"name": str(folder / "backbone"), "quantization": "none"},
            "task": {"name": "text-classification", "max_length": 64},
            "data": {
                "train": str(folder / "train.jsonl"),
                "validation": str(folder / "validation.jsonl"),
            },
            "train": {"steps": 100, "batch_size": 32},
        }
    )
    if not prepare_only:
        from adapterhub.training.train import train

        write_backbone(folder / "backbone")
        # a first small run loads the libraries
        small = recipe.model_copy(
            update={"data": recipe.data.model_copy(update={"train": recipe.data.validation})}
        )
        train(small, output=folder / "warm")
    before = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    data = prepare_data(recipe)
    prepared = time.process_time() - cpu
    if not prepare_only:
        train(recipe, output=folder / "run", data=data)
    return {
        "examples": count,
        "prepare_cpu_seconds": round(prepared, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "libraries_mb": before,
        "peak_mb": _peak(),
        "file_mb": round((folder / "train.jsonl").stat().st_size / 1e6, 1),
    }


def _peak() -> float:
    """Return the largest resident memory of the process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    """Run each size in a process and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--prepare-only", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        found = run(options.folder, options.examples[0], prepare_only=options.prepare_only)
        print(json.dumps(found))
        return
    for count in options.examples:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_examples(folder / "train.jsonl", count)
            write_examples(folder / "validation.jsonl", 500)
            command = [sys.executable, __file__, "--folder", name, "--examples", str(count)]
            command += ["--prepare-only"] if options.prepare_only else []
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
