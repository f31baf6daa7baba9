"""Hints and messages name only options, commands, recipe keys, routes and documents that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

from adapterhub.cli.main import RENAMED, RENAMED_OPTIONS, build_app
from adapterhub.training.recipe_file import key_paths, parse_recipe
from adapterhub.training.recipe_names import OTHER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
#: Options of other programs that hints may name.
_FOREIGN = {"--help", "--enable-lora", "--max-lora-rank"}
#: Files without messages: arguments of pip, and names that other libraries use.
_OTHER = ("adapterhub/backbones/wheels.py", "adapterhub/training/recipe_names.py")
#: Recipe sections that are also names of other objects in format fields.
_FIELD = re.compile(r"\{[^}]*\}")
#: Words after the name of the program in sentences about it, and groups of commands.
_PROSE = {"to", "quantizes", "reads", "supports", "trust", "hub", "alias", "backbones"}
_SECTIONS = "backbone|task|data|adapter|optimizer|schedule|train"
_KEY = re.compile(rf"(?<![\w./*-])((?:{_SECTIONS})\.[a-z_]+(?:\.[a-z_]+)*)")


def _texts() -> Iterator[tuple[str, str]]:
    """Yield place and text of every string of the package that is no docstring."""
    for path in sorted((ROOT / "adapterhub").rglob("*.py")):
        if path.as_posix().endswith(_OTHER):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        inner = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        for node in ast.walk(tree):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                yield place, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and id(node) not in docs | inner:
                yield place, str(node.value)


def _commands(command: Any, name: str = "") -> dict[str, set[str]]:
    """Return the options of each command by its name."""
    found = {name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)}}
    for inner, each in getattr(command, "commands", {}).items():
        found |= _commands(each, f"{name} {inner}".strip())
    return found


TEXTS = list(_texts())
COMMANDS = _commands(get_command(build_app()))
OLD = {old for renamed in RENAMED_OPTIONS.values() for old in renamed}
KEYS = {*key_paths(), *_SECTIONS.split("|")}


def test_options_exist() -> None:
    known = {option for options in COMMANDS.values() for option in options} | _FOREIGN
    for place, text in TEXTS:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            if option not in OLD:
                assert option in known, f"{place}: {option} in {text!r}"


def test_old_names_of_options_are_in_no_message() -> None:
    current = {option for options in COMMANDS.values() for option in options}
    for place, text in TEXTS:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            if not place.startswith("adapterhub/cli/main.py"):
                assert option not in OLD - current, f"{place}: {option} in {text!r}"


def test_commands_exist_and_have_the_options() -> None:
    checked = 0
    for place, text in TEXTS:
        for words in re.findall(r"(?<!an )adapterhub ((?:[a-z][a-z-]*\b ?){1,2})([^;,.]*)", text):
            first, *rest = words[0].split()
            name = f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in COMMANDS else first
            if place.startswith("adapterhub/cli/main.py") and name in RENAMED:
                continue
            if name in _PROSE:
                continue
            assert name in COMMANDS, f"{place}: adapterhub {first} in {text!r}"
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", words[1]):
                assert option in COMMANDS[name], f"{place}: {option} of {name} in {text!r}"
            checked += 1
    assert checked > 10


def test_recipe_keys_exist() -> None:
    checked = 0
    for place, text in TEXTS:
        if place.startswith("adapterhub/backbones") and "mlp." in text:
            continue
        for key in _KEY.findall(_FIELD.sub("", text)):
            if re.search(r"\.(jsonl|yaml|csv|zip|toml|safetensors|gguf|py)$", key):
                continue
            parent = key.rpartition(".")[0]
            exists = key in KEYS or parent in ("data.fields", "task.class_weights")
            assert exists, f"{place}: {key} in {text!r}"
            checked += 1
    assert checked > 30


def test_routes_exist() -> None:
    declared = set()
    for path in (ROOT / "adapterhub/server").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        prefixes = dict(re.findall(r'(\w+) = authenticated_router\("\w+", "([^"]+)"\)', text))
        for name, route in re.findall(r'@(\w+)\.(?:get|post|delete|put)\(\s*"([^"]*)"', text):
            declared.add(f"{prefixes.get(name, '')}{route}".partition("{")[0].rstrip("/"))
    assert "/v1/completions" in declared
    for place, text in TEXTS:
        for route in re.findall(r"/v1/[a-z][a-z/_]*", text):
            known = any(each.startswith(route.rstrip("/")) for each in declared)
            assert known, f"{place}: {route}"


def test_documents_exist() -> None:
    for place, text in TEXTS:
        for page in re.findall(r"\bdocs/[a-z-]+\.md", text):
            assert (ROOT / page).is_file(), f"{place}: {page}"


@pytest.mark.parametrize("key", sorted(set(OTHER_NAMES.values())))
def test_names_of_other_libraries_lead_to_keys_that_exist(key: str) -> None:
    assert key in key_paths()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("optimizer.lr", "learning_rate"),
        ("adapter.r", "rank"),
        ("adapter.lora_alpha", "alpha"),
        ("adapter.lora_dropout", "dropout"),
        ("train.num_train_epochs", "epochs"),
        ("train.per_device_train_batch_size", "batch_size"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("train.gradient_accumulation_steps", "gradient_accumulation"),
        ("task.type", "name"),
        ("task.max_seq_length", "max_length"),
        ("epochs", "train.epochs"),
        ("seed", ""),
        ("adapter.rnk", "rank"),
    ],
)
def test_an_unknown_key_suggests_the_one_that_was_meant(given: str, meant: str) -> None:
    recipe: dict[str, Any] = {
        "name": "a",
        "backbone": {"name": "minilm-l6"},
        "task": {"name": "text-classification"},
        "data": {"train": "a.jsonl"},
    }
    *section, key = given.split(".")
    (recipe.setdefault(section[0], {}) if section else recipe)[key] = 1
    with pytest.raises(Exception, match="unknown key") as caught:
        parse_recipe(recipe)
    error: Any = caught.value
    assert error.place == given
    assert error.hint == f"Did you mean {meant!r}?" if meant else error.hint.startswith("Known: ")
