"""The command line as a whole: help, groups, version, completion, renamed commands."""

import json
import re
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from adapterhub.cli.main import COMMANDS, RENAMED, RENAMED_OPTIONS, build_app

VERBS = {
    *("Add", "Audit", "Chat", "Check", "Compare", "Create", "Delete", "Download", "Evaluate"),
    *("Export", "Import", "List", "Make", "Manage", "Measure", "Merge", "Move", "Point", "Predict"),
    *(
        "Publish",
        "Remove",
        "Repair",
        "Require",
        "Revoke",
        "Search",
        "Serve",
        "Show",
        "Sign",
        "Stop",
    ),
    *("Test", "Train", "Trust"),
}


def walk(group, words=()):
    """Yield every visible command and group with its full name."""
    for name, command in group.commands.items():
        if not command.hidden:
            yield " ".join((*words, name)), command
        if hasattr(command, "commands"):
            yield from walk(command, (*words, name))


APP = get_command(build_app())
ALL = dict(walk(APP))


@pytest.mark.parametrize("name", ALL)
def test_help_is_one_short_sentence_that_begins_with_a_verb(name):
    text = ALL[name].help
    assert text == text.strip()
    assert "\n" not in text
    assert len(text) < 60
    assert text.endswith(".")
    assert text.split()[0] in VERBS


@pytest.mark.parametrize("name", ALL)
def test_options_are_described_by_noun_phrases_of_one_line(name):
    for parameter in ALL[name].params:
        if parameter.name == "help" or parameter.name == "examples":
            continue
        assert parameter.help, parameter.name
        assert len(parameter.help) < 80, parameter.help
        assert not parameter.help.startswith(("Of ", "To ", "That ", "What ", "Where "))


def test_every_command_is_in_a_group():
    panels = {name: command.rich_help_panel for name, command in APP.commands.items()}
    expected = {name: panel for panel, commands in COMMANDS.items() for name in commands}
    assert {name: panels[name] for name in expected} == expected
    assert set(panels) - set(expected) == {old for old in RENAMED if " " not in old}
    assert list(COMMANDS) == ["Train", "Evaluate", "Registry", "Publish", "Serve"]


def test_groups_version_and_help_are_shown(command):
    shown = command("-h").stdout
    for panel in COMMANDS:
        assert f"─ {panel} " in shown
    for old in RENAMED:
        assert f" {old} " not in shown
    assert command("--version").stdout.startswith("adapterhub 0.")
    assert command("train", "-h").stdout == command("train", "--help").stdout


@pytest.mark.parametrize("old", RENAMED)
def test_former_names_name_the_new_command(command, old):
    result = command(*old.split(), "desk", "--seconds", "3")
    assert result.exit_code == 2
    assert result.stderr == f"error: 'adapterhub {old}' is now 'adapterhub {RENAMED[old]}'\n"


def test_shells_complete_references(command, monkeypatch):
    from adapterhub.cli import options
    from adapterhub.registry.registry import Registry

    assert options.complete_ref("d") == []
    found = (
        type("Stored", (), {"name": "desk", "aliases": ("prod",)}),
        type("Stored", (), {"name": "topics", "aliases": ()}),
    )
    monkeypatch.setattr(Registry, "list", lambda _: found)
    assert options.complete_ref("d") == ["desk", "desk@prod"]


def test_help_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from adapterhub.cli.main import build_app\n"
        "assert CliRunner().invoke(build_app(), ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'pydantic') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [(name, *pair) for name, pairs in RENAMED_OPTIONS.items() for pair in pairs.items()],
)
def test_a_former_option_is_answered_with_the_new_one(name, old, new):
    result = CliRunner().invoke(build_app(), [name, f"{old}=x"])
    assert result.exit_code == 2
    assert f"{old} is now {new}" in result.stderr
    options = CliRunner().invoke(build_app(), [name, "--help"], env={"COLUMNS": "200"}).stdout
    assert new in options
    assert old not in re.findall(r"--[a-z-]+", options)


def test_a_former_option_after_two_dashes_is_a_text():
    result = CliRunner().invoke(build_app(), ["predict", "nothing", "--", "--rows"])
    assert "is now" not in result.stderr


def test_a_backbone_is_shown_with_its_forward_paths(command, encoder, decoder):
    options = ("--quantization", "none")
    shown = " ".join(command("backbones", "show", str(encoder), *options).stdout.split())
    assert "fast path (packed sequences)" in shown
    assert "any lengths, mixed adapters" in shown
    document = json.loads(command("backbones", "show", str(decoder), *options, "--json").stdout)
    assert document["forward_paths"]["paged"]
    assert document["forward_paths"]["reasons"] == []
