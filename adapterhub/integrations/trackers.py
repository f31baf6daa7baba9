"""Experiment trackers of a training run, by accelerate: TensorBoard, MLflow, W&B and Trackio."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact_folder import CARD_NAME
from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from adapterhub.training.progress import EvaluationEvent, StepEvent
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult

#: Folder of TensorBoard's files in a run folder.
TENSORBOARD = "tensorboard"


def check_trackers(names: Iterable[str]) -> None:
    """Require that the packages of trackers are installed.

    Raises:
        MissingExtraError: Naming the extra of the first one that is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError(name, name)


class RunTrackers:
    """Reports a run to experiment trackers: parameters, curves, and the artifact at the end.

    A tracker is started by the first event, so that processes that train nothing start none. As a
    context manager it ends them.

    Args:
        names: Names of the trackers.
        recipe: Recipe of the run, whose name is the project or the experiment.
        folder: Run folder, whose name is that of the run.
    """

    def __init__(self, names: Sequence[str], recipe: Recipe, folder: Path) -> None:
        self._names = tuple(names)
        self._recipe = recipe
        self._folder = folder
        self._started: dict[str, Any] = {}

    def __enter__(self) -> RunTrackers:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """End the trackers; MLflow records a failed run as failed."""
        for name, tracker in self._started.items():
            if name == "mlflow" and failure is not None:
                import mlflow

                mlflow.end_run("FAILED")
            tracker.finish()
        self._started = {}

    def on_step(self, event: StepEvent) -> None:
        """Log training loss, learning rate and throughput."""
        self._log(
            {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/tokens_per_second": event.tokens_per_second,
            },
            event.step,
        )

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Log the validation metrics."""
        metrics = {f"validation/{name}": float(value) for name, value in event.metrics.items()}
        self._log(metrics, event.step)

    def on_message(self, text: str) -> None:
        """Ignore a message; the log of the run has it."""

    def finish(self, result: TrainResult) -> None:
        """Log the metrics of the stored adapter, the report, and the artifact with its digest."""
        if not result.digest:
            return
        metrics = {f"final/{name}": float(value) for name, value in result.after.items()}
        self._log(metrics, result.steps)
        for name, tracker in self._trackers().items():
            _STORES[name](tracker, result, self._recipe.name)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers().values():
            tracker.log(dict(values), step=step)

    def _trackers(self) -> Mapping[str, Any]:
        """Return the trackers, started and with the parameters of the run."""
        if len(self._started) < len(self._names):
            parameters = dict(_flat(self._recipe.model_dump(mode="json")))
            for name in self._names:
                tracker = _BUILDERS[name](self._recipe.name, self._folder)
                tracker.start()
                tracker.store_init_configuration(parameters)
                self._started[name] = tracker
        return self._started


def _tensorboard(project: str, folder: Path) -> Any:
    from accelerate import tracking

    return tracking.TensorBoardTracker(".", folder / TENSORBOARD)


def _mlflow(project: str, folder: Path) -> Any:
    from accelerate import tracking

    return tracking.MLflowTracker(experiment_name=project, run_name=folder.name)


def _wandb(project: str, folder: Path) -> Any:
    from accelerate import tracking

    # a project has no slash
    return tracking.WandBTracker(project.replace("/", "-"), name=folder.name, dir=str(folder))


def _trackio(project: str, folder: Path) -> Any:
    from accelerate import tracking

    return tracking.TrackioTracker(project.replace("/", "-"), name=folder.name)


def _store_in_tensorboard(tracker: Any, result: TrainResult, _name: str) -> None:
    """Log the model card as text, because TensorBoard keeps no files."""
    card = (result.artifact / CARD_NAME).read_text(encoding="utf-8")
    tracker.log({"digest": result.digest, "report": card.partition("---\n\n")[2] or card})


def _store_in_mlflow(tracker: Any, result: TrainResult, _name: str) -> None:
    import mlflow

    mlflow.set_tag("adapterhub.digest", result.digest)
    tracker.log_artifacts(str(result.artifact), "adapter")
    if result.report is not None:
        tracker.log_artifact(str(result.report), "report")


def _store_in_wandb(tracker: Any, result: TrainResult, name: str) -> None:
    import wandb

    run = tracker.tracker
    run.summary["digest"] = result.digest
    artifact = wandb.Artifact(name.replace("/", "-"), "model", metadata={"digest": result.digest})
    artifact.add_dir(str(result.artifact))
    run.log_artifact(artifact)
    if result.report is not None:
        run.log({"report": wandb.Html(result.report.read_text(encoding="utf-8"))})


def _store_in_trackio(tracker: Any, result: TrainResult, _name: str) -> None:
    """Store nothing more: Trackio gets the metrics, and the run folder holds the files."""


_BUILDERS: Mapping[str, Callable[[str, Path], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
}
_STORES: Mapping[str, Callable[[Any, TrainResult, str], None]] = {
    "tensorboard": _store_in_tensorboard,
    "mlflow": _store_in_mlflow,
    "wandb": _store_in_wandb,
    "trackio": _store_in_trackio,
}


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a recipe under dotted keys, as trackers take them."""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield name, "none" if value is None else value
        else:
            yield name, json.dumps(value)
