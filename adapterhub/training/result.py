"""The result of a training run, and its record in the run folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import TrainingError
from adapterhub.training.curves import curve_points, read_curves
from adapterhub.training.result_page import result_html
from adapterhub.training.run_folder import ARTIFACT_NAME, FINISHED_NAME, LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.bootstrap import Interval
    from adapterhub.tasks.base import Task
    from adapterhub.training.energy import Energy
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.loop import LoopResult
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe

#: Fields of a result that the record of a finished run holds.
_RECORDED = (
    "digest",
    "before",
    "after",
    "table",
    "trained_share",
    "seconds",
    "tokens_per_second",
    "artifact_bytes",
    "steps",
)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingEvidence:
    """What the figures of a run were computed from.

    Args:
        recipe: Recipe as stored, with the fitted temperature.
        data: Splits that the run read.
        task: Task that was trained.
        before: Validation predictions of the untrained adapter; ``None`` in a resumed run.
        after: Validation predictions of the stored adapter.
        energy: Estimated energy of the training loop, where it was measured.
    """

    recipe: Recipe
    data: PreparedData
    task: Task
    before: Predictions | None
    after: Predictions
    energy: Energy | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training run.

    Args:
        folder: Run folder, with log and artifact.
        artifact: Folder of the artifact.
        digest: Digest of the artifact; empty in a process that wrote none.
        before: Validation metrics of the untrained adapter.
        after: Validation metrics of the stored adapter.
        table: Scores of each label, where the task has labels.
        trained_share: Trained parameters as a share of the backbone's.
        seconds: Seconds spent in training steps, without evaluations.
        tokens_per_second: Tokens, without padding, per second of training steps.
        artifact_bytes: Size of all files of the artifact.
        steps: Optimizer steps made.
        evidence: Data and predictions behind the metrics; ``None`` where an earlier call had
            finished the run.
        report: HTML page of the run report, where one was written.
        intervals: Bootstrap interval of each metric in ``after`` that the report computed.
        reference: Registered version, e.g. ``desk@3``; empty where it was not registered.
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
    evidence: TrainingEvidence | None = field(default=None, repr=False)
    report: Path | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    reference: str = ""

    @property
    def weights(self) -> AdapterWeights:
        """Trained weights, read from the artifact."""
        return read_artifact(self.artifact).weights

    def curves(self) -> list[dict[str, Any]]:
        """Return loss and watched metric over steps, ``[{"name", "points"}]``."""
        return curve_points(read_curves(self.folder / LOG_NAME))

    def _repr_html_(self) -> str:
        """Return metrics, curves and report as a notebook shows them."""
        digest = f"{self.digest[:19]}…, " if self.digest else ""
        return result_html(
            self.reference or self.folder.name,
            f"{digest}{self.steps} steps in {self.seconds:.1f} s, {self.trained_share:.2%} of the "
            "parameters trained",
            self.before,
            self.after,
            curves=self.curves(),
            report=self.report,
        )

    def info(self) -> dict[str, float]:
        """Return the figures that vary between equal runs, and so are not in the artifact."""
        return {
            "training_seconds": round(self.seconds, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "trained_share": self.trained_share,
            "steps": float(self.steps),
        }


def build_result(
    folder: Path, digest: str, model: TaskModel, outcome: LoopResult, evidence: TrainingEvidence
) -> TrainResult:
    """Return the result of a run whose artifact is written."""
    state, artifact = outcome.state, folder / ARTIFACT_NAME
    return TrainResult(
        folder=folder,
        artifact=artifact,
        digest=digest,
        before=outcome.metrics_before,
        after=outcome.after.evaluation.metrics,
        table=outcome.after.evaluation.table,
        trained_share=sum(p.numel() for _, p in model.trainable()) / model.backbone.parameters,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        artifact_bytes=sum(f.stat().st_size for f in artifact.iterdir()) if digest else 0,
        steps=state.step,
        evidence=evidence,
    )


def write_finished(result: TrainResult, run_digest: str) -> None:
    """Record atomically that a run has finished, so that the same command does not train again."""
    record = {name: getattr(result, name) for name in _RECORDED}
    fresh = result.folder / f".{FINISHED_NAME}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({"run": run_digest, "result": record}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(result.folder / FINISHED_NAME)


def read_finished(folder: Path, run_digest: str) -> TrainResult | None:
    """Return the recorded result of a run that finished in a folder; ``None`` without one.

    Raises:
        TrainingError: when another run finished there.
    """
    artifact, record = folder / ARTIFACT_NAME, folder / FINISHED_NAME
    if not artifact.is_dir() or not record.is_file():
        return None
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        run, fields = document["run"], dict(document["result"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise TrainingError(
            "the record of the finished run is damaged",
            place=str(record),
            hint="Remove this run folder and train anew, or choose another with --output",
        ) from None
    if run != run_digest:
        raise TrainingError(
            "holds a finished run of another recipe, or on other examples",
            place=str(folder),
            hint="Choose another folder with --output, or remove this one",
        )
    return TrainResult(folder=folder, artifact=artifact, **fields)
