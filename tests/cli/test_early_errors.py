"""Errors of recipes, references and data come before torch and transformers are imported."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_RUN = """
import sys
from adapterhub.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = [name for name in ("torch", "transformers", "peft", "scipy") if name in sys.modules]
    print("imported:", *heavy)
    sys.exit(end.code)
"""
_RECIPE = """
name: topics
backbone: {name: minilm-l6}
task: {name: text-classification}
data: {train: train.jsonl}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(_RECIPE, encoding="utf-8")
    rows = [{"text": f"text {at}", "label": ("even", "odd")[at % 2]} for at in range(40)]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "one.jsonl").write_text(text.replace("odd", "even"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "recipe.yaml", "optimizer.lr=1"], "optimizer.lr: unknown key"),
        (["train", "recipe.yaml", "train.epochs=many"], "train.epochs"),
        (["train", "recipe.yaml", "task.name=labels"], "there is no task 'labels'"),
        (["train", "recipe.yaml", "task.stride=3"], "does not use this setting"),
        (["train", "recipe.yaml", "backbone.name=minilm-l7"], "Did you mean 'minilm-l6'?"),
        (["train", "recipe.yaml", "data.train=train.json"], "Did you mean 'train.jsonl'?"),
        (["train", "recipe.yaml", "data.fields.text=body"], "column 'body'"),
        (["train", "recipe.yaml", "data.train=one.jsonl"], "a classifier needs two labels"),
        (["train", "recip.yaml"], "no such recipe file"),
        (["learn-curve", "recipe.yaml", "data.train=train.json"], "there is no such file"),
        (["predict", "topics", "a text"], "no adapter with this name"),
        (["chat", "topics", "-m", "hello"], "no adapter with this name"),
        (["eval", "topics", "--data", "train.jsonl"], "no adapter with this name"),
        (["compare", "a", "b", "--data", "train.jsonl"], "no adapter with this name"),
        (["refresh", "topics", "--new-data", "train.jsonl"], "no adapter with this name"),
        (["explain", "topics", "a text"], "no adapter with this name"),
        (["bias-audit", "topics"], "no adapter with this name"),
        (["predict", "topics", "a text", "--device", "gpu"], "Did you mean 'cuda'?"),
        (["chat", "topics", "--device", "tpu"], "is not a device. Devices are cpu, cuda"),
        (["train", "recipe.yaml", "--device", "cuda:99"], "device 'cuda:99'"),
        (["serve", "--backbone", "minilm-l7"], "Did you mean 'minilm-l6'?"),
        (["serve", "--backbone", "."], "contains no config.json"),
        (["serve", "--backbone", "minilm-l6", "--device", "cuda:99"], "device 'cuda:99'"),
        (["serve", "--backbone", "minilm-l6", "--port", "0", "--adapter", "a"], "adapter with"),
        (["serve", "--backbone", "minilm-l6", "--host", "0.0.0.0"], "there is no API key"),
    ],
)
def test_an_error_of_the_user_needs_no_model_library(
    folder: Path, arguments: list[str], problem: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        cwd=folder,
        env={**os.environ, "ADAPTERHUB_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert problem in done.stderr
    assert done.stdout.split("imported:")[1].split() == []
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["serve", "--backbone", "minilm-l6"], ["hub", "serve"]])
def test_a_port_in_use_is_one_line_before_anything_is_loaded(
    folder: Path, command: list[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = [*command, "--port", str(port)]
        test_an_error_of_the_user_needs_no_model_library(
            folder, arguments, f"127.0.0.1:{port}: can't be listened on: address already in use"
        )


def test_the_library_checks_a_recipe_before_its_imports(folder: Path) -> None:
    code = (
        "import adapterhub as ah, sys\n"
        "try: ah.train('recipe.yaml', output='run')\n"
        "except ah.AdapterHubError as error: print(error, 'torch' in sys.modules)\n"
    )
    (folder / "train.jsonl").write_text('{"text": "a"}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "'label'" in done.stdout
    assert done.stdout.strip().endswith("False")
    assert done.stderr == ""


def test_a_prediction_loads_no_library_that_only_training_needs(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from adapterhub.cli.console import silence_libraries\n"
        "silence_libraries(compiler=False)\n"
        "import adapterhub.workflows.model, adapterhub.tasks.text_classification\n"
        "unused = ('sklearn', 'pandas', 'scipy.stats', 'torch._inductor.compile_fx')\n"
        "print([name for name in unused if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""
