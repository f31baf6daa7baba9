"""Documents agree with the code, and their commands and code blocks run."""

import json
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import adapterhub as ah
from adapterhub.cli.main import build_app
from adapterhub.training.recipe_file import load_recipe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["recipes.md", "cli.md", "serving.md"])
def test_reference_pages_are_up_to_date(name):
    module = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == module["pages"]()[name], "run: python docs/make_reference.py"


def test_the_site_builds_without_warnings_and_has_every_public_name(tmp_path):
    arguments = ["build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in ah.__all__:
        anchor = f"errors.{name}" if hasattr(ah.errors, name) else name
        assert f'id="adapterhub.{anchor}"' in page, name
    assert "https://" not in "".join(re.findall(r"<(?:script|link)[^>]*>", page))


def test_links_of_the_documents_lead_somewhere():
    for page in (*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_in_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\$ adapterhub (\w+)", text, flags=re.MULTILINE))
    assert named
    for name in named:
        assert CliRunner().invoke(build_app(), [name, "--help"]).exit_code == 0, name


def code_blocks(text):
    """Return the code blocks of a page, each with its language."""
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def test_the_chinese_readme_has_the_code_of_the_english_one():
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    first_part = english[: english.index("## Serve many adapters")]
    assert code_blocks(chinese) == code_blocks(first_part)
    numbers = r"(?<!\d)\d{2,}(?!\d)"
    assert set(re.findall(numbers, speeds(chinese))) == set(re.findall(numbers, speeds(first_part)))


def speeds(readme: str) -> str:
    """Return the paragraph of a README that compares the speed with vLLM's."""
    (paragraph,) = (part for part in readme.split("\n\n") if "RESULTS.md" in part)
    return paragraph


@pytest.fixture
def first_adapter(tmp_path, monkeypatch):
    """Write the files of the README's first adapter; return the section's text."""
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    start = page.index("## Train your first adapter")
    text = page[start : page.index("\n## ", start)]
    for name, mark in re.findall(r"cat > (\S+) <<'(\w+)'", text):
        (content,) = re.findall(rf"<<'{mark}'\n(.*?\n){mark}\n", text, flags=re.DOTALL)
        Path(name).write_text(content)
    return text


@pytest.mark.weights
def test_the_first_adapter_of_the_readme_answers_as_written(first_adapter):
    commands = re.findall(r"^\$ adapterhub (.*)$", first_adapter, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "predict"]
    for command in commands:
        result = CliRunner().invoke(build_app(), shlex.split(command))
        assert result.exit_code == 0, result.output
    promised = re.findall(r"^(\w+) 0\.\d+\t(.+)$", first_adapter, flags=re.MULTILINE)
    assert promised
    answers = [line.split("\t") for line in result.stdout.splitlines()]
    assert [(label.split()[0], text) for label, text in answers] == promised


@pytest.mark.weights
def test_the_python_lines_of_the_readme_run(first_adapter):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (code for language, code in code_blocks(page) if language == "python")
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["model"].predict("Please refund the invoice")["label"] == "billing"
    assert namespace["hub"].get("desk@prod").version == 1


@pytest.mark.weights
def test_the_tutorial_runs_and_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    namespace = {}
    for language, block in code_blocks(page):
        if language == "python":
            capsys.readouterr()
            exec(compile(block, "docs/tutorial.md", "exec"), namespace)
        elif language == "text":
            assert capsys.readouterr().out == block


def commands_of(section):
    """Return the lines that a reader of a section pastes into a shell."""
    blocks = re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.mark.weights
def test_the_walkthrough_of_the_registry_page_runs(tmp_path):
    page = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    section = page[page.index("## Walkthrough") : page.index("## References")]
    install, *steps = commands_of(section)
    assert install.startswith("make backbones")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # a server that runs in the background must not outlive a command that fails
    stop = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
    script = "\n".join(["set -e -m", stop, *steps]).replace("8600", port)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HF_HOME": str(tmp_path / "hf"),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "billing 0." in done.stdout
    assert "delivery 0." in done.stdout
    assert "desk@prod points to version 1 (before: 2)" in done.stdout
    assert "2 versions, no damage found" in done.stdout


TASKS_PAGE = ROOT / "docs" / "tasks.md"


def sections_of(text):
    """Return heading to text of each section of the second level."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_task_has_a_section_with_an_example_that_it_accepts():
    from adapterhub.tasks.table import TASKS, missing_fields

    text = TASKS_PAGE.read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| \[.*?\]\(#(.*?)\) \| `([a-z-]+)`", text, flags=re.MULTILINE))
    assert set(named.values()) == set(TASKS)
    sections = {title.lower().replace(" ", "-"): body for title, body in sections_of(text).items()}
    assert list(named) == list(sections)
    for anchor, task in named.items():
        (example,) = re.findall(r"```json\n(.*?)```", sections[anchor], flags=re.DOTALL)
        assert missing_fields(task, json.loads(example)) == (), anchor
        measured = "| **" in sections[anchor]
        figures = re.findall(r"!\[.+\]\(figures/.+\.svg\)", sections[anchor])
        assert len(figures) == measured, anchor


def test_every_recipe_is_in_the_page_of_tasks_and_its_commands_are_valid():
    text = TASKS_PAGE.read_text(encoding="utf-8")
    for path in (ROOT / "recipes").glob("*.yaml"):
        recipe = load_recipe(path)
        section = re.search(rf"tasks: begin[^>]* {path.stem}[ >]", text)
        assert section, f"{path.name}: no table of docs/tasks.md has it"
        comment = re.sub(r"\n# *", " ", path.read_text(encoding="utf-8").split("\nname:")[0])
        for command in re.findall(r"adapterhub train \S+\.yaml((?: \S+=\S+)*)", comment):
            assert load_recipe(path, command.split()).name == recipe.name
    for command in commands_of(text):
        words = shlex.split(command)
        if words[0] == "python":
            assert (ROOT / words[1]).exists(), command
        else:
            assert CliRunner().invoke(build_app(), [words[1], "--help"]).exit_code == 0, command
        for word in words:
            if word.endswith(".yaml"):
                load_recipe(ROOT / word)


def test_figures_of_tasks_are_drawn_from_the_results():
    module = runpy.run_path(str(ROOT / "docs" / "make_figures.py"))
    drawn = set(module["figures"](module["read_all"]()))
    there = {path.name for path in (ROOT / "docs" / "figures").glob("*.svg")}
    assert drawn == there, "run: python docs/make_figures.py"
