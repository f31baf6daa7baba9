"""Fixtures: an isolated home folder, tiny backbones, and small tasks."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_configs import bert_config, llama_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner, Result

from adapterhub.cli.main import build_app, exit_code, message
from adapterhub.errors import AdapterHubError

GLAD, SAD = ("good", "great", "fine", "lovely"), ("bad", "poor", "awful", "dull")
THINGS = ("film", "meal", "day", "song")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "<s>",
    "</s>",
    "the",
    "was",
    *THINGS,
    *GLAD,
    *SAD,
    "@",
    "#",
]
TEMPLATE = (
    "{% for m in messages %}<s> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> {% endif %}"
)


def save_tokenizer(folder: Path, *, encoder: bool) -> None:
    words = {word: index for index, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=64,
    )
    tokenizer.chat_template = None if encoder else TEMPLATE
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = bert_config(vocab_size=64, max_position_embeddings=64)
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder, encoder=True)
    return folder


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(0)
    config = llama_config(
        vocab_size=64,
        num_attention_heads=2,  # of 32, as the compiled step needs
        num_key_value_heads=1,
        tie_word_embeddings=True,
        initializer_range=0.2,  # logits wide enough to separate words
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, encoder=False)
    return folder


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch, request) -> Path:
    """Store everything of a test in a temporary folder, which is the working directory too.

    Real weights come from the user's cache: downloading and converting them takes minutes.
    """
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    if "weights" not in request.keywords:
        monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_moods(path: Path) -> Path:
    """Write examples whose last word determines their label."""
    draw = random.Random(3)
    examples = []
    for _ in range(120):
        mood = draw.choice(("glad", "sad"))
        word = draw.choice(GLAD if mood == "glad" else SAD)
        examples.append({"text": f"the {draw.choice(THINGS)} was {word}", "label": mood})
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


@pytest.fixture
def moods(tmp_path) -> Path:
    return write_moods(tmp_path / "moods.jsonl")


def write_talks(path: Path) -> Path:
    """Write dialogues: the response is good to good words, bad to bad ones."""
    examples = [
        {"prompt": f"the {thing} was {word}", "response": "good" if word in GLAD else "bad"}
        for thing in THINGS
        for word in (*GLAD, *SAD)
    ]
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


@pytest.fixture
def talks(tmp_path) -> Path:
    return write_talks(tmp_path / "talks.jsonl")


def write_recipe(
    place: Path, name: str, folder: Path, task: str, examples: Path, **sections: Any
) -> Path:
    """Write a recipe; keyword arguments replace whole sections."""
    document = {
        "name": name,
        "backbone": {"name": str(folder)},
        "task": {"name": task, "max_length": 32, "max_new_tokens": 3}
        if task == "dialogue"
        else {"name": task, "max_length": 32},
        "data": {"train": str(examples), "validation": str(examples)},
        "adapter": {"rank": 8, "alpha": 16},
        "optimizer": {"learning_rate": 0.01},
        "train": {"batch_size": 16, "epochs": 4},
        **sections,
    }
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


Recipe = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return partial(write_recipe, tmp_path)


Command = Callable[..., Result]


def run_command(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command as the entry point does: errors become a line and an exit code."""
    result = CliRunner().invoke(build_app(), list(arguments), input=stdin)
    if isinstance(result.exception, AdapterHubError):
        result.exit_code = exit_code(result.exception)
        result.stderr_bytes = message(result.exception).encode()
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def command() -> Command:
    return run_command


def train_once(place: Path, *trainings: Sequence[str]) -> None:
    """Train into a home that all tests of a module copy.

    Args:
        place: Folder of the home.
        trainings: Arguments of each ``adapterhub train``.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ADAPTERHUB_HOME", str(place / "home"))
        patched.setenv("ADAPTERHUB_CACHE", str(place / "cache"))
        patched.chdir(place)
        for number, training in enumerate(trainings):
            done = run_command("train", *training, "--output", f"run-{number}", "--no-report")
            assert done.exit_code == 0, done.stderr


def copy_home(place: Path, own_home: Path) -> None:
    """Copy a home of ``train_once`` into that of a test."""
    shutil.copytree(place / "home", own_home / "home")
