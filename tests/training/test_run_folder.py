"""The run folder: one process at a time, whole checkpoints, and a disk that is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import SafetensorError

from adapterhub.errors import TrainingError
from adapterhub.training import checkpoint as checkpoints
from adapterhub.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from adapterhub.training.result import read_finished
from adapterhub.training.run_folder import check_folder, disk_errors, lock_folder

if TYPE_CHECKING:
    from pathlib import Path

_HOLD = """
import sys
from pathlib import Path
from adapterhub.training.run_folder import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Run:
    """Two parameters and their optimizer, which write and read checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parameters = {name: torch.nn.Parameter(torch.zeros(3)) for name in "ab"}
        self.optimizer = torch.optim.AdamW(self.parameters.values())

    def save(self, step: int) -> None:
        """Make a step and write a checkpoint of it."""
        for parameter in self.parameters.values():
            parameter.grad = torch.ones(3)
        self.optimizer.step()
        save_checkpoint(
            self.folder,
            run_digest="run",
            state=TrainingState(step=step),
            parameters=self.parameters,
            best=None,
            optimizer=self.optimizer,
        )

    def load(self) -> int:
        """Return the step of the checkpoint."""
        state, _ = load_checkpoint(
            self.folder, run_digest="run", parameters=self.parameters, optimizer=self.optimizer
        )
        return state.step


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    made.save(1)
    return made


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "digests.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
def test_a_damaged_checkpoint_is_refused_in_one_line(run: Run, name: str, damage: str) -> None:
    path = run.folder / "checkpoint" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(TrainingError, match="the checkpoint is damaged") as caught:
        run.load()
    assert "checkpoint" in caught.value.place
    with pytest.raises(TrainingError, match="the checkpoint is damaged"):
        check_folder(run.folder, resume=True)
    assert caught.value.hint


def test_a_first_checkpoint_whose_write_was_interrupted_is_none(tmp_path: Path) -> None:
    fresh = tmp_path / ".checkpoint.new"
    fresh.mkdir()
    (fresh / "state.safetensors").write_bytes(b"half")
    assert checkpoints.checkpoint_folder(tmp_path) is None
    check_folder(tmp_path, resume=False)


def test_a_kill_between_the_renames_loses_no_checkpoint(run: Run) -> None:
    (run.folder / "checkpoint").rename(run.folder / ".checkpoint.old")
    assert run.load() == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_disk_keeps_the_last_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", full)
        with pytest.raises(TrainingError, match="no space left on device") as caught:
            run.save(2)
    assert "--resume" in caught.value.hint
    assert run.load() == 1
    assert not list(run.folder.glob(".checkpoint*"))


def test_another_process_in_the_folder_is_named(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match="another process trains in this folder"):
            check_folder(tmp_path, resume=True)
        with pytest.raises(TrainingError, match="another process"), lock_folder(tmp_path):
            pass
        other.kill()
    # a lock ends with its process
    check_folder(tmp_path, resume=True)


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(TrainingError, match="can't be written"), lock_folder(tmp_path / "run"):
        pass


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), disk_errors(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_damaged_record_of_a_finished_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "finished.json").write_text('{"run": ', encoding="utf-8")
    with pytest.raises(TrainingError, match="record of the finished run is damaged"):
        read_finished(tmp_path, "run")
