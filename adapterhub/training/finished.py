"""What a finished run leaves beside its artifact, so that the same command trains nothing again."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import TYPE_CHECKING

from adapterhub.errors import TrainingError
from adapterhub.training.result import TrainResult

if TYPE_CHECKING:
    from pathlib import Path

FINISHED_NAME = "finished.json"
#: Fields that the folder itself tells.
_PLACES = ("folder", "artifact", "report")


def write_finished(result: TrainResult, run: str) -> None:
    """Record that a run has ended, all at once.

    Args:
        result: of the run, whose artifact is written.
        run: digest of what decided it.
    """
    kept = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in _PLACES}
    fresh = result.folder / f".{FINISHED_NAME}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({"run": run, "result": kept}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(result.folder / FINISHED_NAME)


def read_finished(folder: Path, artifact: Path, report: Path, run: str) -> TrainResult | None:
    """Return what a folder's finished run came to; ``None`` where none has ended there.

    Args:
        folder: of the run.
        artifact: where its artifact is, if it has ended.
        report: where its report is, if it wrote one.
        run: digest of what decides it.

    Raises:
        TrainingError: when the run that ended there was another one.
    """
    path = folder / FINISHED_NAME
    if not artifact.is_dir() or not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["run"] != run:
        raise TrainingError(
            "holds a finished run of another recipe, or on other rows",
            place=str(folder),
            hint="Choose another folder with --output, or remove this one",
        )
    return TrainResult(
        folder=folder,
        artifact=artifact,
        report=report if report.is_file() else None,
        **document["result"],
    )
