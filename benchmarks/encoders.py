"""How many texts per second does an encoder label, compared to transformers and ONNX Runtime?

Physics: a text of 53 tokens needs two operations per weight and token: MiniLM has 10.6 million
weights in its linear layers, so 1.1 GFLOP a text, plus 3 % for attention. One core with matrix
tiles does about 1,000 GFLOP/s in bfloat16, so nearly all time is work beside the products. LoRA of
rank 16 on all linear layers adds a twentieth of the operations, and the weights of 32 adapters are
read once for each batch.

All sides label the same texts in batches of 32, sorted by length, in one process, alternately;
tokenization is included. Ours are measured in bfloat16 and NF4, without adapters (embeddings of
the first token) and with 32 adapters of rank 16 mixed in every batch, for text and for token
classification. Peers that are not installed are left out.

    python benchmarks/encoders.py [--data ../shared/data/ag_news] [--texts 256] [--rounds 5]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from bench_common import RANK

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.backbones.backbone import Backbone

TARGETS = ("query", "key", "value", "dense")
#: Task to its labels.
LABELS = {
    "text-classification": ["World", "Sports", "Business", "Sci/Tech"],
    "token-classification": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"],
}


def read_texts(folder: Path | None, count: int) -> list[str]:
    """Return texts of a folder with ``dev.jsonl``, or random ones of about 53 tokens."""
    if folder is None:
        draw = random.Random(0)
        words = ("market", "team", "game", "science", "bank", "world", "said", "on", "the", "of")
        return [" ".join(draw.choices(words, k=draw.randint(25, 75))) for _ in range(count)]
    path = next(each for each in folder.iterdir() if each.name.startswith(("dev.jsonl", "train")))
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]


def random_labeller(backbone: Backbone, task: str, seed: int) -> AdapterWeights:
    """Return a LoRA adapter with a head, of random values."""
    draw = torch.Generator().manual_seed(seed)
    prefix, tensors = f"base_model.model.{backbone.base_model.base_model_prefix}", {}
    for path, module in backbone.base_model.named_modules():
        if path.startswith("encoder.") and path.rpartition(".")[2] in TARGETS:
            a = torch.randn(RANK, module.in_features, generator=draw) * 0.02
            b = torch.randn(module.out_features, RANK, generator=draw) * 0.02
            tensors[f"{prefix}.{path}.lora_A.weight"] = a
            tensors[f"{prefix}.{path}.lora_B.weight"] = b
    count, width = len(LABELS[task]), backbone.config.hidden_size
    tensors["base_model.model.classifier.weight"] = torch.randn(count, width, generator=draw)
    tensors["base_model.model.classifier.bias"] = torch.zeros(count)
    return AdapterWeights(LoraSpec(rank=RANK, alpha=16.0, target_modules=TARGETS), tensors)


def our_sides(options: argparse.Namespace, scheme: str, texts: list[str]) -> dict[str, Any]:
    """Return runs of this library with one quantization."""
    backbone = load_backbone(options.backbone, QuantizationSpec(scheme, "bfloat16"))
    slots = RANK * options.adapters * len(LABELS)
    engine = Engine(backbone, EngineConfig(rank_slots=slots, max_num_seqs=options.batch))
    for name, labels in LABELS.items():
        task = build_task(name, backbone.tokenizer, backbone.kind, labels, TaskOptions())
        for number in range(options.adapters):
            weights = random_labeller(backbone, name, number)
            key = f"{name}{number}"
            engine.load_weights(weights, key=key, name=key, task=task)
    label = "bf16" if scheme == "none" else scheme
    count = len(texts)

    def adapters(task: str) -> list[Any]:
        return [((f"{task}{number % options.adapters}", 1.0),) for number in range(count)]

    def embed() -> Any:
        return in_batches(options, texts, lambda batch, at: engine.embed(batch, [None] * len(at)))

    def classify(task: str, kind: Any) -> Any:
        used = adapters(task)
        return in_batches(
            options,
            texts,
            lambda batch, at: engine.label(batch, [used[index] for index in at], kind=kind),
        )

    return {
        f"{label}, no adapter": embed,
        f"{label}, {options.adapters} adapters": lambda: classify(
            "text-classification", "sequence"
        ),
        f"{label}, {options.adapters} taggers": lambda: classify("token-classification", "token"),
    }


def in_batches(
    options: argparse.Namespace, texts: list[str], run: Callable[[list[str], list[int]], Any]
) -> list[Any]:
    """Run texts in batches of similar length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    starts = range(0, len(order), options.batch)
    batches = [order[start : start + options.batch] for start in starts]
    return [run([texts[index] for index in batch], batch) for batch in batches]


def transformers_sides(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Return runs of transformers' own class for text classification, without an adapter."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = fetch_backbone(options.backbone)
    tokenizer = AutoTokenizer.from_pretrained(path)

    def side(dtype: torch.dtype) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=4, dtype=dtype)
        model.eval()

        def classify(batch: list[str], _: list[int]) -> Any:
            inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                return model(**inputs).logits.float().softmax(-1).tolist()

        return lambda: in_batches(options, texts, classify)

    found = {"transformers bf16": side(torch.bfloat16), "transformers float32": side(torch.float32)}
    if find_spec("onnxruntime"):
        found |= onnx_sides(options, texts, path, tokenizer)
    return found


def onnx_sides(
    options: argparse.Namespace, texts: list[str], path: Path, tokenizer: Any
) -> dict[str, Any]:
    """Return runs of ONNX Runtime on the exported class, float32 and dynamic int8."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=4, attn_implementation="eager"
    ).eval()
    inputs = tokenizer(["one text", "another"], padding=True, return_tensors="pt")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    folder = Path(tempfile.mkdtemp())
    torch.onnx.export(
        model,
        tuple(inputs[name] for name in names),
        folder / "model.onnx",
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
        dynamo=False,
    )
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def side(file: str) -> Any:
        session = onnxruntime.InferenceSession(folder / file, settings)

        def classify(batch: list[str], _: list[int]) -> Any:
            inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="np")
            return session.run(None, {name: inputs[name] for name in names})[0].tolist()

        return lambda: in_batches(options, texts, classify)

    return {"onnxruntime float32": side("model.onnx"), "onnxruntime int8": side("int8.onnx")}


def measure(sides: dict[str, Any], count: int, rounds: int) -> dict[str, float]:
    """Return the median texts per second of each side; the sides alternate."""
    for run in sides.values():
        run()
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            speeds[name].append(count / (time.perf_counter() - started))
    return {name: round(statistics.median(each), 1) for name, each in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of texts; random ones by default")
    parser.add_argument("--backbone", default="minilm-l6")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schemes", nargs="*", default=["none", "nf4"])
    parser.add_argument("--no-peers", action="store_true", help="measure this library alone")
    options = parser.parse_args()
    texts = read_texts(options.data, options.texts)
    sides: dict[str, Any] = {} if options.no_peers else transformers_sides(options, texts)
    for scheme in options.schemes:
        sides |= our_sides(options, scheme, texts)
    found = measure(sides, len(texts), options.rounds)
    for name, speed in found.items():
        print(f"{name:24} {speed:8.1f} texts/s")
    print(json.dumps({"backbone": options.backbone, "texts": len(texts), "texts_per_s": found}))


if __name__ == "__main__":
    main()
