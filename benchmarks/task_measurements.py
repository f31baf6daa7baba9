"""Measurements of a recipe: its adapter, the frozen backbone, full fine-tuning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from full_finetuning import train_full
from step_time import StepClock, logged_seconds

from adapterhub.adapters.artifact import read_artifact
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import TrainingError
from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.training.curves import curve_points, read_curves
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import Reporters
from adapterhub.training.run_folder import ARTIFACT_NAME, LOG_NAME
from adapterhub.training.setup import open_backbone
from adapterhub.training.train import train
from adapterhub.workflows.run_report.report import SUMMARY_NAME
from adapterhub.workflows.score import score_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.evaluation.bootstrap import Interval
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult

    Measured = dict[str, Any]

#: Tasks that generate text; they have no head that could be trained alone.
GENERATING = frozenset(
    {
        "dialogue",
        "translation",
        "summarization",
        "generative-question-answering",
        "speech-recognition",
    }
)
#: Largest number of labels for which a confusion matrix is stored.
MAX_CONFUSION_LABELS = 30
#: Largest number of points of a stored curve.
MAX_POINTS = 60


@dataclass(frozen=True)
class Measurement:
    """What is measured.

    Args:
        recipe: Recipe with its overrides.
        folder: Folder of the run.
        generate: Number of answers that are generated and scored as text.
        head_rate: Learning rate of a head that is trained alone.
        full_rate: Learning rate of full fine-tuning.
        reporter: Reporter of the training.
        trained: Folder of a finished run of ``adapterhub train``, which is measured instead of
            training the recipe again.
    """

    recipe: Recipe
    folder: Path
    generate: int
    head_rate: float
    full_rate: float
    reporter: Reporter
    trained: Path | None = None


def measure_adapter(measurement: Measurement) -> Measured:
    """Train the recipe, and score the stored adapter on the validation examples."""
    if measurement.trained:
        found = finished_run(measurement.recipe, measurement.trained)
        return found | _score_artifact(measurement, measurement.trained / ARTIFACT_NAME)
    result = train(measurement.recipe, output=measurement.folder, reporter=measurement.reporter)
    return _run_figures(measurement.recipe, result) | _score_artifact(measurement, result.artifact)


def measure_base(measurement: Measurement) -> Measured:
    """Train a head alone, or score the untrained backbone if the task generates text."""
    if measurement.recipe.task.name in GENERATING:
        return _measure_zero_shot(measurement)
    recipe = _head_alone(measurement.recipe, measurement.head_rate)
    result = train(recipe, output=measurement.folder, reporter=measurement.reporter)
    found = _run_figures(recipe, result) | _score_artifact(measurement, result.artifact)
    return {"kind": "head", **found}


def measure_full(measurement: Measurement) -> Measured:
    """Train every weight of the unquantized backbone."""
    clock = StepClock()
    reporters = Reporters([measurement.reporter, clock])
    task, predictions, result = train_full(measurement.recipe, measurement.full_rate, reporters)
    return {
        "learning_rate": measurement.full_rate,
        "steps": result.state.step,
        "training_rows": len(prepare_data(measurement.recipe).splits["train"]),
        "seconds": round(clock.seconds(result.state.step)),
        "trained_share": 1.0,
        **_score_predictions(task, predictions),
    }


PARTS: Mapping[str, Callable[[Measurement], Measured]] = {
    "adapter": measure_adapter,
    "base": measure_base,
    "full": measure_full,
}


def finished_run(recipe: Recipe, folder: Path) -> Measured:
    """Return the figures of a finished run of ``adapterhub train``, from its report.

    Raises:
        TrainingError: If the run has another recipe.
    """
    artifact = read_artifact(folder / ARTIFACT_NAME)
    if artifact.manifest.recipe != recipe.model_dump(mode="json"):
        raise TrainingError("is a run of another recipe or of other settings", place=str(folder))
    report = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    cost = report["cost"]
    return {
        **_figures(recipe, folder, cost["trained_share"]),
        "steps": cost["steps"],
        "artifact_bytes": cost["artifact_bytes"],
        "digest": artifact.digest,
        "untrained": rounded({k: each["before"] for k, each in report["metrics"].items()}),
    }


def thinned(curves: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """Return curves with fewer points; the last point of each is kept."""
    found = []
    for curve in curves:
        points = curve["points"]
        every = -(-len(points) // MAX_POINTS) or 1
        kept = points[::-1][::every][::-1]
        found.append({"name": curve["name"], "points": [[s, round(v, 4)] for s, v in kept]})
    return found


def rounded(values: Mapping[str, Any]) -> Measured:
    """Return values with numbers rounded to four decimal places."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


@dataclass(frozen=True)
class GeneratedTexts:
    """Generated texts, in the form whose metrics can be computed on resamples.

    Args:
        task: Task that scores the texts.
        examples: Examples with their reference answers.
        texts: Generated text of each example.
    """

    task: TextGeneration
    examples: Sequence[Mapping[str, Any]]
    texts: Sequence[str]
    #: scores of texts are slow
    max_resamples: ClassVar[int] = 200

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def metrics(self, indices: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the metrics of each resample; see ``Scores``."""
        found = [
            self.task.score_texts(
                [self.examples[i] for i in chosen], [self.texts[i] for i in chosen]
            ).metrics
            for chosen in indices
        ]
        return {name: np.array([each[name] for each in found]) for name in found[0]}


def score_generated(
    loaded: LoadedAdapter,
    task: TextGeneration,
    examples: Sequence[Mapping[str, Any]],
    *,
    with_adapter: bool = True,
) -> Measured:
    """Generate answers greedily and score the texts.

    Args:
        loaded: Adapter, whose prompt format the base model gets too.
        task: Task of the adapter.
        examples: Examples with their answers.
        with_adapter: Whether the adapter is used, or the base model alone.
    """
    texts = loaded.write(examples, with_adapter=with_adapter)
    scores = task.score_texts(examples, texts)
    return {
        "rows": len(examples),
        "metrics": rounded(scores.metrics),
        "intervals": _ends(intervals(GeneratedTexts(task, examples, texts))),
        "signatures": dict(scores.signatures),
        "mean_words": round(sum(len(text.split()) for text in texts) / len(texts), 1),
    }


def _head_alone(recipe: Recipe, learning_rate: float) -> Recipe:
    """Return the recipe with only the head trained; its LoRA factors stay without effect."""
    return recipe.model_copy(
        update={
            # the smallest rank, since the factors only take time
            "adapter": recipe.adapter.model_copy(update={"rank": 1}),
            "optimizer": recipe.optimizer.model_copy(update={"learning_rate": learning_rate}),
            "train": recipe.train.model_copy(update={"parts": "head"}),
        }
    )


def _run_figures(recipe: Recipe, result: TrainResult) -> Measured:
    return {
        **_figures(recipe, result.folder, result.trained_share),
        "steps": result.steps,
        "artifact_bytes": result.artifact_bytes,
        "digest": result.digest,
        "untrained": rounded(result.before),
    }


def _figures(recipe: Recipe, folder: Path, trained_share: float) -> Measured:
    """Return what the recipe and the log of a run say about it."""
    log = folder / LOG_NAME
    return {
        "learning_rate": recipe.optimizer.learning_rate,
        "training_rows": len(prepare_data(recipe).splits["train"]),
        "seconds": round(logged_seconds(log)),
        "trained_share": round(trained_share, 6),
        "curves": thinned(curve_points(read_curves(log))),
    }


def _score_artifact(measurement: Measurement, artifact: Path) -> Measured:
    """Load a stored adapter and score it on the validation examples."""
    local = LocalEngine(open_backbone(measurement.recipe))
    loaded = local.load(read_artifact(artifact), name="measured")
    examples = prepare_data(measurement.recipe).splits["validation"].examples
    found = _score_predictions(loaded.task, score_examples(loaded, examples))
    if (task := loaded.task.generation) is not None:
        found["texts"] = score_generated(loaded, task, examples[: measurement.generate])
    return found


def _measure_zero_shot(measurement: Measurement) -> Measured:
    """Score the untrained backbone with the prompts on which the adapter is trained."""
    recipe = measurement.recipe
    # an engine gets its task from an adapter, so one is trained for a single step
    one_step = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"limit_train": 8, "limit_validation": 2}),
            "train": recipe.train.model_copy(update={"epochs": None, "steps": 1}),
        }
    )
    result = train(one_step, output=measurement.folder, reporter=measurement.reporter)
    loaded = LocalEngine(open_backbone(recipe)).load(
        read_artifact(result.artifact), name="measured"
    )
    examples = prepare_data(recipe).splits["validation"].examples
    found = _score_predictions(loaded.task, score_examples(loaded, examples, with_adapter=False))
    if (task := loaded.task.generation) is None:
        raise ValueError(f"the task {loaded.task.name!r} does not generate text")
    texts = score_generated(loaded, task, examples[: measurement.generate], with_adapter=False)
    return {"kind": "zero-shot", "trained_share": 0.0, **found, "texts": texts}


def _score_predictions(task: Task, predictions: Predictions) -> Measured:
    """Return metrics with their intervals, the scores of labels and the confusion matrix."""
    scores = scores_of(task, predictions.examples, predictions.decoded)
    found: Measured = {
        "validation_rows": scores.size,
        "watched": task.default_metric[0],
        "metrics": rounded(predictions.evaluation.metrics),
        "intervals": _ends(intervals(scores)),
        "labels": [rounded(each) for each in predictions.evaluation.table],
    }
    choices = task.label_choices(predictions.examples, predictions.decoded)
    if choices is not None and len(choices.labels) <= MAX_CONFUSION_LABELS:
        matrix = [[int(count) for count in counts] for counts in choices.confusion()]
        found["confusion"] = {"labels": list(choices.labels), "matrix": matrix}
    return found


def _ends(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: [round(each.low, 4), round(each.high, 4)] for name, each in found.items()}
