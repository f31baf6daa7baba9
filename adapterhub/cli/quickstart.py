"""Quick start: train, register and try two adapters on one frozen 4-bit backbone."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.cli.console import log_console, megabytes, percent, short_digest, table
from adapterhub.data.dataset import Dataset
from adapterhub.data.splits import split_examples
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import DataError, MissingExtraError
from adapterhub.registry.policy import require_unsigned_loads, trusted_folder
from adapterhub.registry.registry import Registry
from adapterhub.training.progress import PlainReporter
from adapterhub.workflows.run_report.options import WITHOUT_BIAS_AUDIT
from adapterhub.workflows.train_run import train_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.registry.version import Version
    from adapterhub.training.result import TrainResult

BACKBONE = "smollm2-135m-instruct"
#: Files of chatterbot-corpus with enough distinct questions to classify.
TOPICS = ("ai", "coding", "emotion", "psychology", "trivia")
#: Files of questions about computers, with answers.
SUPPORT = ("tech_support", "computers", "coding", "ai")
HELD_OUT = 0.2
SPLIT_SEED = 13
NUM_SHOWN = 4
CACHE_HINT = "the first run also fetches and converts the backbone"


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained adapter of the quick start."""

    version: Version
    result: TrainResult
    metric: str


def run_quickstart(folder: Path, console: Console) -> None:
    """Train both adapters, register them, and print their answers and a summary.

    Args:
        folder: Folder for data, recipes and runs; replaced if it exists.

    Raises:
        SignatureError: When the registry requires signatures; nothing is changed.
    """
    began = time.perf_counter()
    require_unsigned_loads(Registry(), "quickstart")
    shutil.rmtree(folder, ignore_errors=True)
    corpus = corpus_folder()
    console.print("[bold]1  Data[/bold]  English files of the package chatterbot-corpus (BSD-3)")
    topics = _write_examples(folder / "topics", _topic_examples(corpus), console)
    support = _write_examples(folder / "support", _support_examples(corpus), console)
    console.print(f"\n[bold]2  Backbone[/bold]  {BACKBONE}, frozen, nf4 ({CACHE_HINT})")
    backbone = load_backbone(BACKBONE)
    before = state_digest(backbone.base_model)
    console.print(
        f"   {backbone.parameters / 1e6:.0f}M parameters in "
        f"{megabytes(backbone.memory_bytes)}, {short_digest(backbone.fingerprint)}"
    )
    console.print("\n[bold]3  Train and register[/bold]")
    trained = [
        _train("topics", _topic_recipe(topics), "accuracy", folder, backbone, console),
        _train("support", _support_recipe(support), "perplexity", folder, backbone, console),
    ]
    console.print("\n[bold]4  Use both on the same backbone[/bold]")
    local = _load_both(backbone, trained)
    _show_topics(local, trained[0], topics, console)
    _show_support(local, trained[1], support, console)
    local.close()
    unchanged = "unchanged" if state_digest(backbone.base_model) == before else "CHANGED"
    _summarize(trained, console)
    console.print(
        f"\nbackbone bytes after training and use: {unchanged}; "
        f"whole run {time.perf_counter() - began:.0f} s"
    )
    _next(trained, console)


def corpus_folder() -> Path:
    """Return the folder of the corpus's English files, without importing the package."""
    spec = find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("chatterbot-corpus", "quickstart")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "english"


def conversations(corpus: Path, name: str) -> list[list[str]]:
    """Return the conversations of one file as lists of turns."""
    path = corpus / f"{name}.yml"
    if not path.is_file():
        raise DataError("the installed corpus has no such file", place=path.name)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [[str(turn).strip() for turn in turns] for turns in document["conversations"]]


def _topic_examples(corpus: Path) -> list[dict[str, str]]:
    return [
        {"text": turns[0], "label": topic}
        for topic in TOPICS
        for turns in conversations(corpus, topic)
    ]


def _support_examples(corpus: Path) -> list[dict[str, str]]:
    return [
        {"prompt": turns[0], "response": turns[1]}
        for name in SUPPORT
        for turns in conversations(corpus, name)
        if len(turns) > 1
    ]


def _write_examples(
    stem: Path, examples: Sequence[Mapping[str, str]], console: Console
) -> dict[str, Path]:
    """Drop repeated questions, split the rest, and write both splits."""
    unique = {next(iter(each.values())).casefold(): each for each in reversed(examples)}
    kept = [dict(each) for each in reversed(unique.values())]
    everything = Dataset(stem.name, tuple(kept), tuple(range(1, len(kept) + 1)))
    train_split, validation = split_examples(everything, held_out=HELD_OUT, seed=SPLIT_SEED)
    console.print(
        f"   {stem.name}: {len(examples)} examples, {len(examples) - len(kept)} repeated questions "
        f"dropped; {len(train_split)} to train, {len(validation)} held out"
    )
    paths = {}
    for split, part in (("train", train_split), ("validation", validation)):
        paths[split] = stem / f"{split}.jsonl"
        paths[split].parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(each, ensure_ascii=False) for each in part.examples]
        paths[split].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def _topic_recipe(data: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "name": "quickstart-topics",
        "description": "Classifies the topic of a question",
        "backbone": {"name": BACKBONE},
        "task": {"name": "text-classification", "max_length": 128},
        "data": {split: str(path) for split, path in data.items()},
        "adapter": {"rank": 8, "alpha": 16.0},
        "optimizer": {"learning_rate": 5e-4, "head_ratio": 4.0},
        "train": {"batch_size": 16, "epochs": 3, "metric": "accuracy"},
    }


def _support_recipe(data: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "name": "quickstart-support",
        "description": "Answers questions about computers",
        "backbone": {"name": BACKBONE},
        "task": {"name": "dialogue", "max_length": 256, "max_new_tokens": 40},
        "data": {split: str(path) for split, path in data.items()},
        "adapter": {"rank": 16, "alpha": 32.0},
        "optimizer": {"learning_rate": 5e-4},
        "train": {"batch_size": 8, "epochs": 3},
    }


def _train(
    stem: str,
    document: Mapping[str, Any],
    metric: str,
    folder: Path,
    backbone: Backbone,
    console: Console,
) -> Trained:
    """Write a recipe, train its adapter and register it."""
    recipe_path = folder / f"{stem}.yaml"
    recipe_path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
    console.print(f"   {document['name']}  (recipe: {recipe_path})")
    # the bias audit takes a minute; adapterhub bias-audit runs it later
    result = train_run(
        document,
        output=folder / f"run-{stem}",
        reporter=PlainReporter(log_console()),
        backbone=backbone,
        report=WITHOUT_BIAS_AUDIT,
        register=True,
    )
    version = Registry().resolve(result.reference)
    console.print(f"   stored as {version.ref}  {short_digest(version.digest)}")
    return Trained(version, result, metric)


def _load_both(backbone: Backbone, trained: Sequence[Trained]) -> LocalEngine:
    """Load both adapters from the registry on one backbone."""
    registry = Registry()
    local = LocalEngine(backbone)
    for each in trained:
        artifact = read_artifact(trusted_folder(registry, each.version))
        local.load(artifact, name=each.version.name)
    return local


def _held_out(paths: Mapping[str, Path], count: int) -> list[dict[str, str]]:
    lines = paths["validation"].read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // count)
    return [json.loads(line) for line in lines[::step][:count]]


def _show_topics(
    local: LocalEngine, trained: Trained, paths: Mapping[str, Path], console: Console
) -> None:
    """Print predictions of the base model, with the trained head, and of the adapter."""
    examples = _held_out(paths, NUM_SHOWN)
    loaded = local.adapter(trained.version.name)
    plain, adapted = (loaded.predict(examples, with_adapter=on) for on in (False, True))
    shown = table("held-out question", "topic", "base", "adapter")
    for each, base, answer in zip(examples, plain, adapted, strict=True):
        shown.add_row(
            each["text"][:60],
            each["label"],
            f"{base['label']} {base['score']:.2f}",
            f"{answer['label']} {answer['score']:.2f}",
        )
    console.print(shown)


def _show_support(
    local: LocalEngine, trained: Trained, paths: Mapping[str, Path], console: Console
) -> None:
    """Print answers of the base model and of the adapter."""
    examples = _held_out(paths, NUM_SHOWN)
    loaded = local.adapter(trained.version.name)
    conversations = [[{"role": "user", "content": each["prompt"]}] for each in examples]
    plain, adapted = (loaded.generate(conversations, with_adapter=on) for on in (False, True))
    for each, base, answer in zip(examples, plain, adapted, strict=True):
        console.print(f"\n[bold]{_line(each['prompt'])}[/bold]")
        console.print(f"   base     {_line(base)}", markup=False)
        console.print(f"   adapter  {_line(answer)}", markup=False)
        console.print(f"   held out {_line(each['response'])}", markup=False)


def _summarize(trained: Sequence[Trained], console: Console) -> None:
    shown = table(
        "adapter", "metric (held out)", ">before", ">after", ">trained", ">artifact", ">training"
    )
    for each in trained:
        shown.add_row(
            str(each.version.ref),
            each.metric,
            f"{each.result.before[each.metric]:.3f}",
            f"{each.result.after[each.metric]:.3f}",
            percent(each.result.trained_share),
            megabytes(each.result.artifact_bytes),
            f"{each.result.seconds:.0f} s",
        )
    console.print()
    console.print(shown)


def _next(trained: Sequence[Trained], console: Console) -> None:
    topics, support = (each.version.name for each in trained)
    console.print("\nnext:")
    for line in (
        "source .venv/bin/activate",
        "adapterhub list",
        f'adapterhub predict {topics} "Who wrote Hamlet?" "How do I sort a list?"',
        f'adapterhub chat {support} --base -m "My laptop is slow."',
        f"adapterhub show {support}",
    ):
        console.print(f"   {line}", markup=False)


def _line(text: str, width: int = 110) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"
