"""A refresh interrupted at any stage: the same command completes it, with one child."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapterhub.registry.registry import Registry
from adapterhub.training import train as training
from adapterhub.training.loop import TrainingLoop
from adapterhub.training.progress import PlainReporter
from adapterhub.workflows.refresh import run as refreshing
from adapterhub.workflows.run_report import report as reporting

SHORT = ("train.epochs=2", "--replay", "0.5")


class Killed(BaseException):
    """An exception that nothing catches, like a kill."""


@pytest.fixture
def handles_interrupts():
    """Handle Ctrl-C as in a terminal: a shell lets background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def steps(monkeypatch):
    """Number of every training step made, over all runs."""
    made = []
    step = TrainingLoop._step

    def counted(loop, batches):
        step(loop, batches)
        made.append(loop.state.step)

    monkeypatch.setattr(TrainingLoop, "_step", counted)
    return made


def killed_before(patched, where, name):
    """Raise in place of the first call of a function."""

    def killed(*arguments, **settings):
        raise Killed(name)

    patched.setattr(where, name, killed)


def killed_after(patched, where, name):
    real = getattr(where, name)

    def killed(*arguments, **settings):
        real(*arguments, **settings)
        raise Killed(name)

    patched.setattr(where, name, killed)


STAGES = [
    (killed_before, refreshing, "open_backbone"),
    (killed_before, refreshing, "train_run"),
    (killed_before, TrainingLoop, "_step"),
    (killed_after, TrainingLoop, "_evaluate"),
    (killed_before, TrainingLoop, "_finish"),
    (killed_before, training, "save_adapter"),
    (killed_after, training, "save_adapter"),
    (killed_before, training, "drop_checkpoint"),
    (killed_before, reporting, "report_run"),
    (killed_before, refreshing, "_outcome"),
    (killed_before, refreshing, "write_child"),
    (killed_before, Registry, "put"),
    (killed_after, Registry, "put"),
]


def children(name="mood"):
    return [version for version in Registry().versions(name) if version.parent]


def test_the_same_command_completes_a_refresh_killed_at_any_stage(
    command, mood, signs, steps, monkeypatch, tmp_path
):
    refresh = ("refresh", "mood", "--new-data", signs, *SHORT, "--json")
    whole = json.loads(command(*refresh, "--output", str(tmp_path / "whole")).stdout)
    planned = list(steps)
    assert planned == list(range(1, max(planned) + 1))
    for kill, where, name in STAGES:
        stage = f"{kill.__name__} {name}"
        registry = Registry()
        for child in children():
            registry.remove(child.ref)
        steps.clear()
        run = ("--output", str(tmp_path / stage.replace(" ", "-")))
        with monkeypatch.context() as patched:
            kill(patched, where, name)
            with pytest.raises(Killed):
                command(*refresh, *run)
        ended = json.loads(command(*refresh, *run).stdout)
        (child,) = children()
        assert steps == planned, stage
        assert ended["child"]["digest"] == child.digest == whole["child"]["digest"], stage
        assert ended["done_before"] == (kill is killed_after and name == "put"), stage
        same = ("drift", "present", "forgetting", "gain", "parent", "num_examples", "due")
        assert {key: ended[key] for key in same} == {key: whole[key] for key in same}, stage
    # once more: nothing is left to do, whatever the reference
    command("promote", str(child.ref), "--to", "prod")
    for ref in ("mood", "mood@1", "mood@prod"):
        assert "already stored as" in command("refresh", ref, *refresh[2:-1]).stdout
    assert [each.digest for each in children()] == [child.digest]
    assert steps == planned


def test_a_process_killed_before_it_registers_leaves_nothing_to_clean_up(
    command, mood, signs, steps
):
    refresh = ("refresh", "mood", "--new-data", signs, *SHORT)
    code = (
        "import os, signal\n"
        "from adapterhub.cli.main import main\n"
        "from adapterhub.registry.registry import Registry\n"
        "Registry.put = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"main({list(refresh)!r})\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ.copy(), check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    assert not children()
    assert "stored as mood@2" in command(*refresh).stdout
    assert not steps
    assert len(children()) == 1


def test_ctrl_c_prints_the_command_that_resumes(command, mood, signs, steps, monkeypatch, tmp_path):
    other = tmp_path / "new examples.jsonl"
    other.write_bytes(Path(signs).read_bytes())
    step = PlainReporter.on_step

    def interrupting(reporter, event):
        step(reporter, event)
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    refresh = ("refresh", "mood@prod", "--new-data", str(other), *SHORT, "--force", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(PlainReporter, "on_step", interrupting)
        stopped = command(*refresh)
    assert stopped.exit_code == 130
    assert steps == [1, 2, 3]
    said = str(stopped.exception)
    assert "interrupted after step 3" in said
    assert "--resume" not in said
    program, *words = shlex.split(said.partition("To resume: ")[2])
    assert program == "adapterhub"
    assert "stored" not in said
    ended = json.loads(command(*words).stdout)
    assert ended["child"]["ref"] == "mood@2"
    assert steps == list(range(1, len(steps) + 1))
    # the same refresh as the first command
    assert json.loads(command(*refresh).stdout)["done_before"]


@pytest.mark.usefixtures("handles_interrupts")
def test_ctrl_c_outside_of_training_prints_it_too(command, mood, signs, monkeypatch):
    with monkeypatch.context() as patched:

        def interrupted(*_, **__):
            os.kill(os.getpid(), signal.SIGINT)

        patched.setattr(refreshing, "find_drift", interrupted)
        stopped = command("refresh", "mood", "--new-data", signs, "--replay", "0")
    assert stopped.exit_code == 130
    assert f"To resume: adapterhub refresh mood --new-data {signs} --replay 0.0" in stopped.stderr


def test_another_refresh_is_refused_in_the_folder_of_a_finished_one(command, mood, signs, tmp_path):
    run = ("--output", str(tmp_path / "run"))
    command("refresh", "mood@1", "--new-data", signs, *SHORT, *run)
    other = command("refresh", "mood@1", "--new-data", signs, *run, "train.epochs=1")
    assert "holds a finished run of another recipe, or on other examples" in str(other.exception)
    assert "Choose another folder with --output" in str(other.exception)
    # without --output each has a folder of its own
    assert command("refresh", "mood@1", "--new-data", signs, "train.epochs=1").exit_code == 0
    assert len(children()) == 2
