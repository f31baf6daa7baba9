"""What a training run came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.training.curves import curve_points, read_curves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.training.loop import LoopResult

LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run.

    Args:
        folder: of the run, with log and artifact.
        artifact: folder of the artifact.
        digest: of the artifact.
        before: validation metrics of the untrained adapter.
        after: validation metrics of the artifact.
        table: per-label scores of the artifact, where the task has them.
        trained_share: trained parameters as a share of the backbone's.
        seconds: spent in training steps, without evaluations.
        tokens_per_second: real tokens in training steps.
        artifact_bytes: size of all files of the artifact.
        steps: optimizer steps made.
        report: HTML page on the run, where one was written.
    """

    folder: Path
    artifact: Path
    digest: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    table: Sequence[Mapping[str, float | str]]
    trained_share: float
    seconds: float
    tokens_per_second: float
    artifact_bytes: int
    steps: int
    report: Path | None = None

    def curves(self) -> list[dict[str, Any]]:
        """Return loss and watched metric over steps, ``[{"name", "points"}]``."""
        return curve_points(read_curves(self.folder / LOG_NAME))

    def info(self) -> dict[str, float]:
        """Return what a registry keeps beside the artifact, because it varies between runs."""
        return {
            "training_seconds": round(self.seconds, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "trained_share": self.trained_share,
            "steps": float(self.steps),
        }


def result_of(
    folder: Path, artifact: Path, digest: str, model: TaskModel, outcome: LoopResult
) -> TrainResult:
    """Return what a run came to.

    Args:
        folder: of the run.
        artifact: its folder.
        digest: of the artifact; empty in a process that wrote none.
        model: with what was trained.
        outcome: of the loop.
    """
    progress = outcome.progress
    trained = sum(parameter.numel() for _, parameter in model.trainable())
    return TrainResult(
        folder=folder,
        artifact=artifact,
        digest=digest,
        before=outcome.before,
        after=outcome.after.metrics,
        table=outcome.after.table,
        trained_share=trained / model.backbone.parameters,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
        artifact_bytes=sum(f.stat().st_size for f in artifact.iterdir()) if digest else 0,
        steps=progress.step,
    )
