"""Stored parts of a recipe do not overwrite each other, and the tables show them."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapterhub.training.recipe_file import load_recipe

ROOT = Path(__file__).parents[2]
PART = {
    "metrics": {"accuracy": 0.91, "macro_f1": 0.5},
    "intervals": {"accuracy": [0.88, 0.93]},
    "trained_share": 0.025,
    "artifact_bytes": 2_500_000,
    "training_rows": 1200,
    "validation_rows": 300,
    "steps": 90,
    "seconds": 130,
    "command": "python benchmarks/tasks.py mood",
    "machine": "2 cores",
    "date": "2026-01-31",
}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "mood.yaml"
    file.write_text(
        "name: mood\nbackbone: {name: minilm-l6}\ntask: {name: text-classification}\n"
        "data: {train: train.jsonl}\n"
    )
    return load_recipe(file)


def test_storing_a_part_keeps_the_others(recipe, tmp_path):
    from task_results import read_all, save_part

    file = tmp_path / "results" / "mood.json"
    save_part(file, recipe, "adapter", PART)
    save_part(file, recipe, "base", {**PART, "metrics": {"accuracy": 0.7}})
    save_part(file, recipe, "adapter", {**PART, "steps": 91})
    parts = read_all(file.parent)["mood"]["parts"]
    assert parts["adapter"] == {**PART, "steps": 91}
    assert parts["base"]["metrics"] == {"accuracy": 0.7}


def test_a_table_has_the_recipes_that_its_mark_names(recipe, tmp_path):
    from task_results import read_all, save_part
    from task_table import filled

    for name in ("mood", "topic"):
        save_part(tmp_path / f"{name}.json", recipe, "adapter", PART)
    save_part(tmp_path / "mood.json", recipe, "full", {**PART, "metrics": {"accuracy": 0.92}})
    page = "a\n<!-- tasks: begin mood -->\nold\n<!-- tasks: end -->\nb\n"
    text = filled(page, read_all(tmp_path))
    assert text.startswith("a\n<!-- tasks: begin mood -->\n| recipe |")
    assert text.endswith("<!-- tasks: end -->\nb\n")
    assert "old" not in text
    assert "topic" not in text
    line = next(line for line in text.splitlines() if line.startswith("| mood"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:6] == ["accuracy", "", "**0.9100**", "0.8800 … 0.9300", "0.9200"]
    assert cells[6:] == ["2.50 %", "2.50 MB", "1,200 examples, 90 steps, 2 min"]
    assert filled(text, read_all(tmp_path)) == text
    whole = filled(page.replace("begin mood ", "begin "), read_all(tmp_path))
    assert "| topic |" in whole
    assert "2026-01-31" in whole


def test_scores_of_generated_texts_take_precedence(recipe):
    from task_table import interval, value

    texts = {"metrics": {"f1": 40.0}, "intervals": {"f1": [30.0, 50.0]}}
    part = {"metrics": {"f1": 1.0, "loss": 2.0}, "texts": texts}
    assert value(part, "f1") == 40.0
    assert interval(part, "f1") == (30.0, 50.0)
    assert value(part, "loss") == 2.0
    assert value(part, "bleu") is None


@pytest.mark.parametrize("page", ["benchmarks/RESULTS.md", "docs/tasks.md"])
def test_the_tables_of_the_documents_are_up_to_date(page):
    from task_results import read_all
    from task_table import filled

    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(text, read_all()) == text, "run: python benchmarks/tasks.py --table"


def test_stored_parts_have_their_conditions_and_no_absolute_paths():
    from task_results import read_all

    for stem, document in read_all().items():
        name, _, backbone = stem.partition(".")
        for part in document["parts"].values():
            assert {"command", "machine", "date", "metrics", "validation_rows"} <= part.keys()
            assert name in part["command"]
            assert not backbone or f"backbone.name={backbone}" in part["command"]
            assert not re.search(r"(^|[ =])/", part["command"]), part["command"]


def test_a_run_with_other_settings_is_rejected(recipe, tmp_path, monkeypatch):
    import task_measurements

    from adapterhub.errors import TrainingError

    stored = SimpleNamespace(manifest=SimpleNamespace(recipe={"name": "other"}))
    monkeypatch.setattr(task_measurements, "read_artifact", lambda _: stored)
    with pytest.raises(TrainingError, match="another recipe"):
        task_measurements.finished_run(recipe, tmp_path)


def test_the_command_needs_recipes_or_the_table_option(capsys):
    sys.modules.pop("tasks", None)
    import tasks

    assert tasks.parse(["mood", "--examples", "5"]).parts == ["adapter", "base"]
    assert tasks.parse(["--table"]).recipes == []
    with pytest.raises(SystemExit):
        tasks.parse([])
    assert "semeval-relations" in capsys.readouterr().err


def test_the_time_of_steps_excludes_interruptions(tmp_path):
    from step_time import logged_seconds

    log = tmp_path / "log.jsonl"
    times = [0, 2, 4, 904, 906, 946, 948]
    events = ["step"] * 5 + ["evaluation", "step"]
    lines = [json.dumps({"event": e, "time": t}) for e, t in zip(events, times, strict=True)]
    log.write_text("\n".join(lines) + "\n")
    # six steps of two seconds; one was stopped for 900 s, and an evaluation preceded another
    assert logged_seconds(log) == 12.0


def test_recipes_quote_the_stored_figures():
    from task_results import read_all
    from task_table import value

    results = read_all()
    for path in (ROOT / "recipes").glob("*.yaml"):
        (line,) = re.findall(r"^# Measured.*: (.*)$", path.read_text(), flags=re.MULTILINE) or [""]
        for metric, figure in re.findall(r"(\w+) ([\d.]+)", line):
            found = value(results[path.stem]["parts"]["adapter"], metric)
            digits = len(figure.partition(".")[2])
            assert f"{found:.{digits}f}" == figure, f"{path.name}: {metric}"
