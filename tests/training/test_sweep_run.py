"""A sweep finds better values, prunes poor trials and resumes after an interruption."""

import json
import os
import signal
import subprocess
import sys

import pytest

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import (
    DataError,
    MissingExtraError,
    RecipeError,
    TrainingError,
    TrainingInterrupted,
)
from adapterhub.training.loop import InterruptFlag
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.sweep.run import run_sweep
from adapterhub.training.sweep.space import parse_space
from adapterhub.training.sweep.study import Goal, SweepOptions, import_optuna, open_study

pytest.importorskip("optuna")

RATES = {"optimizer.learning_rate": {"low": 1e-5, "high": 0.05, "log": True}}
SHORT = {"batch_size": 16, "epochs": 3, "metric": "loss"}


@pytest.fixture
def mood(recipe, encoder, moods):
    return recipe("mood", encoder, "text-classification", moods, train=SHORT)


def sweep(path, folder, *, document=RATES, trials=4, **more):
    options = SweepOptions(trials, **more)
    return run_sweep(load_recipe(path), parse_space(document, origin="s"), options, folder=folder)


def found(result):
    return [(t.number, t.state, t.value, dict(t.params)) for t in result.trials]


def test_the_best_artifact_contains_its_study(mood, tmp_path):
    result = sweep(mood, tmp_path / "sweep", pruner="none")
    assert [trial.state for trial in result.trials] == ["complete"] * 4
    # the recipe's own value is the first trial
    assert result.trials[0].params == {"optimizer.learning_rate": 0.01}
    assert result.best.value == min(trial.value for trial in result.trials)
    artifact = read_artifact(result.artifact)
    assert artifact.digest == result.digest
    study = json.loads((result.artifact / "study.json").read_text())
    assert study["best"] == result.best.number
    assert [t["params"] for t in study["trials"]] == [dict(t.params) for t in result.trials]
    assert artifact.manifest.recipe["optimizer"]["learning_rate"] == pytest.approx(
        result.best.params["optimizer.learning_rate"]
    )
    assert "## Search" in (result.artifact / "README.md").read_text()
    for name in ("history.png", "importance.png", "parallel.png"):
        assert (result.folder / name).read_bytes().startswith(b"\x89PNG")
        assert (result.artifact / name).is_file()
    # only the best trial's own artifact is kept beside
    kept = [p.parent.name for p in (result.folder / "trials").glob("*/artifact")]
    assert kept == [f"{result.best.number:04}"]


def test_more_trials_continue_a_study_as_if_never_stopped(mood, tmp_path):
    whole = sweep(mood, tmp_path / "whole", trials=3, pruner="none")
    sweep(mood, tmp_path / "parts", trials=2, pruner="none")
    parts = sweep(mood, tmp_path / "parts", trials=3, pruner="none")
    again = sweep(mood, tmp_path / "parts", trials=3, pruner="none")
    assert found(whole) == found(parts) == found(again)
    assert whole.digest == parts.digest == again.digest


def test_an_interrupted_trial_resumes_from_its_checkpoint(mood, tmp_path, monkeypatch):
    whole = sweep(mood, tmp_path / "whole", trials=2)
    flags = iter([False] * 17 + [True] + [False] * 100)
    with monkeypatch.context() as patched:
        fake = property(lambda _: next(flags), lambda *_: None)
        patched.setattr(InterruptFlag, "is_set", fake, raising=False)
        with pytest.raises(TrainingInterrupted, match="Run the same command again"):
            sweep(mood, tmp_path / "cut", trials=2)
    assert list((tmp_path / "cut/trials").glob("*/checkpoint"))
    assert found(sweep(mood, tmp_path / "cut", trials=2)) == found(whole)


def test_poor_trials_are_pruned(recipe, encoder, moods, tmp_path):
    train = {"batch_size": 8, "epochs": 4, "evaluate_every": 15, "metric": "loss"}
    path = recipe("mood", encoder, "text-classification", moods, train=train)
    rates = {"optimizer.learning_rate": [0.01, 0.011, 0.012, 0.013, 1e-7, 2e-7, 3e-7]}
    result = sweep(path, tmp_path / "sweep", document=rates, trials=10, sampler="random")
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    hopeless = [t for t in result.trials[5:] if t.params["optimizer.learning_rate"] < 1e-6]
    assert hopeless
    assert all(trial in pruned for trial in hopeless)
    assert all(0 < trial.reached < 100 for trial in pruned)
    assert result.best.params["optimizer.learning_rate"] >= 0.01
    assert result.best.value < min(trial.value for trial in hopeless)


def test_a_diverging_trial_fails_alone(mood, tmp_path):
    rates = {"optimizer.clip_norm": [0.0, 1.0], "optimizer.learning_rate": [0.01, 1e30]}
    result = sweep(mood, tmp_path / "sweep", document=rates, trials=6, sampler="random")
    failed = [trial for trial in result.trials if trial.state == "fail"]
    assert failed
    assert all("not finite" in trial.error for trial in failed)
    assert result.best.params["optimizer.learning_rate"] == 0.01


def test_a_trial_with_an_invalid_combination_fails_alone(mood, tmp_path):
    sizes = {"train.epochs": [1, 2], "adapter.target_modules": [["all-linear"], ["nowhere"]]}
    result = sweep(mood, tmp_path / "sweep", document=sizes, trials=5, sampler="random")
    failed = [trial for trial in result.trials if trial.state == "fail"]
    assert failed
    assert all("nowhere" in trial.error for trial in failed)
    assert result.best.params["adapter.target_modules"] == '["all-linear"]'
    alone = {"adapter.target_modules": [["nowhere"], ["nowhere", "either"]]}
    with pytest.raises(TrainingError, match=r"none of 1 trials is complete; .*nowhere"):
        sweep(mood, tmp_path / "none", document=alone, trials=1)


def test_invalid_data_leaves_no_study_behind(mood, moods, tmp_path):
    lines = moods.read_text()
    moods.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        sweep(mood, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    moods.write_text(lines)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("nonsense", "the database can't be opened: Could not parse"),
        ("sqlite:////no/such/folder/study.sqlite3", "unable to open database file"),
        ("oracle://me:secret@nowhere/x", "Python driver .* is not installed"),
    ],
)
def test_a_database_error_is_one_line_without_the_password(mood, tmp_path, storage, said):
    recipe, space = load_recipe(mood), parse_space(RATES, origin="s")
    with pytest.raises(RecipeError, match=said) as caught:
        run_sweep(recipe, space, SweepOptions(1), folder=tmp_path / "sweep", storage=storage)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_another_space_is_another_study(mood, tmp_path):
    sweep(mood, tmp_path / "sweep", trials=1)
    with pytest.raises(TrainingError, match="another recipe, space or metric"):
        sweep(mood, tmp_path / "sweep", document={"adapter.rank": [2, 4]}, trials=2)


def test_in_a_shared_database_another_recipe_needs_another_name(mood, tmp_path):
    recipe, storage = load_recipe(mood), f"sqlite:///{tmp_path}/shared.sqlite3"
    options = {"recipe": recipe, "goal": Goal("loss", False), "options": SweepOptions(1)}
    rates, ranks = (parse_space(each, origin="s") for each in (RATES, {"adapter.rank": [2, 4]}))
    open_study(tmp_path / "one", space=rates, storage=storage, **options)
    with pytest.raises(TrainingError, match=r"'mood' of the storage.*another name"):
        open_study(tmp_path / "two", space=ranks, storage=storage, **options)


def test_parallel_processes_share_the_trials(mood, tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from adapterhub.training.recipe_file import load_recipe\n"
        "from adapterhub.training.sweep.run import run_sweep\n"
        "from adapterhub.training.sweep.space import parse_space\n"
        "from adapterhub.training.sweep.study import SweepOptions\n"
        f"space = parse_space({RATES!r}, origin='s')\n"
        f"recipe = load_recipe({str(mood)!r})\n"
        "found = run_sweep(recipe, space, SweepOptions(4, pruner='none'), folder=Path('shared'))\n"
        "print(found.digest)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=240)[0].decode().strip() for each in processes]
    assert [each.returncode for each in processes] == [0, 0]
    result = sweep(mood, tmp_path / "shared", trials=4, pruner="none")
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3]
    assert all(trial.state == "complete" for trial in result.trials)
    assert len({trial.params["optimizer.learning_rate"] for trial in result.trials}) == 4
    assert result.digest in outputs


def test_the_trial_of_a_killed_process_is_taken_over(mood, tmp_path):
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from adapterhub.training.recipe_file import load_recipe\n"
        "from adapterhub.training.sweep.run import run_sweep\n"
        "from adapterhub.training.sweep.space import parse_space\n"
        "from adapterhub.training.sweep.study import SweepOptions\n"
        "class Killer:\n"
        "    def on_step(self, event):\n"
        "        if event.step == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    def on_evaluation(self, event): pass\n"
        "    def on_message(self, text): pass\n"
        f"space = parse_space({RATES!r}, origin='s')\n"
        f"run_sweep(load_recipe({str(mood)!r}), space, SweepOptions(2), folder=Path('cut'),"
        " reporter=Killer())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ.copy(), check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-800:]
    result = sweep(mood, tmp_path / "cut", trials=2)
    assert [trial.state for trial in result.trials] == ["complete", "complete"]


def test_the_command_stores_the_best_adapter_with_its_study(command, mood, tmp_path):
    (tmp_path / "space.yaml").write_text("optimizer.learning_rate: [0.01, 0.001]\n")
    arguments = ("sweep", str(mood), "--space", "space.yaml", "--trials", "2", "--json")
    report = json.loads(command(*arguments).stdout)
    assert report["ref"] == "mood@1"
    assert report["best"]["number"] == 0
    shown = command("show", "mood").stdout
    assert "study mood, trial 0 of 2" in shown
    stored = json.loads(command("show", "mood", "--json").stdout)
    assert stored["digest"] == report["digest"]
    assert command("predict", "mood", "the day was fine").stdout.startswith("glad")
    # the same again is the same version
    assert json.loads(command(*arguments).stdout)["ref"] == "mood@1"


def test_the_default_space_can_be_printed_and_passed_back(command, mood, tmp_path):
    printed = command("sweep", str(mood), "--show-space").stdout
    (tmp_path / "space.yaml").write_text(printed)
    again = command("sweep", str(mood), "--space", "space.yaml", "--show-space").stdout
    assert again == printed
    assert "adapter.rank" in printed


def test_without_optuna_the_extra_is_named(mood, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"adapterhub\[sweep\]"):
        import_optuna()
    with pytest.raises(MissingExtraError):
        open_study(
            tmp_path / "sweep",
            recipe=load_recipe(mood),
            space=parse_space(RATES, origin="s"),
            goal=None,
            options=SweepOptions(1),
        )
