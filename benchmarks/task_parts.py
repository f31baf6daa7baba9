"""The parts of a comparison: the adapter, the frozen backbone, full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plain_figures import rounded, thinned
from scored_texts import generated
from steady_time import StepClock, steady_of_log
from trained_run import trained_facts
from whole_model import train_whole

from adapterhub.adapters.artifact import read_artifact
from adapterhub.engine.session import Session
from adapterhub.evaluation.bootstrap import intervals
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.training.evaluate import score_examples
from adapterhub.training.prepare import prepare_data
from adapterhub.training.progress import Reporters
from adapterhub.training.result import ARTIFACT_NAME, LOG_NAME
from adapterhub.training.setup import open_backbone
from adapterhub.training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult

#: Tasks whose answers are texts: they have no head that could learn alone.
GENERATING = frozenset(
    {"dialogue", "translation", "summarization", "generative-question-answering"}
)
#: Labels above which no matrix of confusion is kept.
MOST_LABELS = 30


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Args:
        recipe: with its overrides.
        folder: of the run.
        generate: answers scored as text.
        head_rate: learning rate of a head that is trained alone.
        full_rate: learning rate of full fine-tuning.
        reporter: hears of every step.
        trained: folder of a run of the recipe by ``adapterhub train``, not to train it again.
    """

    recipe: Recipe
    folder: Path
    generate: int
    head_rate: float
    full_rate: float
    reporter: Reporter
    trained: Path | None = None


def measure_adapter(asked: Asked) -> dict[str, Any]:
    """Train the recipe, and score what was stored on the validation rows."""
    if asked.trained:
        return {
            **trained_facts(asked.recipe, asked.trained),
            **_of_artifact(asked, asked.trained / ARTIFACT_NAME),
        }
    result = train(asked.recipe, output=asked.folder, reporter=asked.reporter)
    return {**_of_run(asked.recipe, result), **_of_artifact(asked, result.artifact)}


def measure_base(asked: Asked) -> dict[str, Any]:
    """Train a head alone; or ask the backbone as it is, where the task generates text."""
    if asked.recipe.task.name in GENERATING:
        return _zero_shot(asked)
    recipe = _head_alone(asked.recipe, asked.head_rate)
    result = train(recipe, output=asked.folder, reporter=asked.reporter)
    return {"kind": "head", **_of_run(recipe, result), **_of_artifact(asked, result.artifact)}


def measure_full(asked: Asked) -> dict[str, Any]:
    """Train every weight of the unquantized backbone."""
    clock = StepClock()
    reporters = Reporters([asked.reporter, clock])
    task, scored, outcome = train_whole(asked.recipe, asked.full_rate, reporters)
    return {
        "learning_rate": asked.full_rate,
        "steps": outcome.state.step,
        "training_rows": len(prepare_data(asked.recipe).splits["train"]),
        "seconds": round(clock.seconds(outcome.state.step)),
        "trained_share": 1.0,
        **_of_predictions(task, scored),
    }


PARTS: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "adapter": measure_adapter,
    "base": measure_base,
    "full": measure_full,
}


def _head_alone(recipe: Recipe, learning_rate: float) -> Recipe:
    """Return the recipe with nothing but the head to learn; its factors stay without effect."""
    return recipe.model_copy(
        update={
            # the smallest that there can be, since it does nothing but take time
            "adapter": recipe.adapter.model_copy(update={"rank": 1}),
            "optimizer": recipe.optimizer.model_copy(update={"learning_rate": learning_rate}),
            "train": recipe.train.model_copy(update={"parts": "head"}),
        }
    )


def _of_run(recipe: Recipe, result: TrainResult) -> dict[str, Any]:
    return {
        "learning_rate": recipe.optimizer.learning_rate,
        "steps": result.steps,
        "training_rows": len(prepare_data(recipe).splits["train"]),
        "seconds": round(steady_of_log(result.folder / LOG_NAME)),
        "trained_share": round(result.trained_share, 6),
        "artifact_bytes": result.artifact_bytes,
        "digest": result.digest,
        "untrained": rounded(result.before),
        "curves": thinned(result.curves()),
    }


def _of_artifact(asked: Asked, artifact: Path) -> dict[str, Any]:
    """Score the stored adapter as anybody would who loads it."""
    session = Session(open_backbone(asked.recipe))
    loaded = session.load(read_artifact(artifact), name="measured")
    rows = prepare_data(asked.recipe).splits["validation"].examples
    found = _of_predictions(
        loaded.task, score_examples(session.model("measured"), loaded.task, rows)
    )
    if (task := loaded.task.generation) is not None:
        found["texts"] = generated(session, task, rows[: asked.generate], "measured")
    return found


def _zero_shot(asked: Asked) -> dict[str, Any]:
    """Ask the backbone as it is, with the prompts that the adapter is trained on."""
    recipe = asked.recipe
    # a session knows tasks by their adapters; one that is hardly trained brings this one
    one_step = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"limit_train": 8, "limit_validation": 2}),
            "train": recipe.train.model_copy(update={"epochs": None, "steps": 1}),
        }
    )
    result = train(one_step, output=asked.folder, reporter=asked.reporter)
    session = Session(open_backbone(recipe))
    loaded = session.load(read_artifact(result.artifact), name="measured")
    rows = prepare_data(recipe).splits["validation"].examples
    model = session.model("measured")
    with model.disable_adapter():
        found = _of_predictions(loaded.task, score_examples(model, loaded.task, rows))
    if (task := loaded.task.generation) is None:
        raise ValueError(f"{loaded.task.name} does not generate text")
    texts = generated(session, task, rows[: asked.generate], None, like="measured")
    return {"kind": "zero-shot", "trained_share": 0.0, **found, "texts": texts}


def _of_predictions(task: Task, scored: Predictions) -> dict[str, Any]:
    """Return metrics with their intervals, the table of labels and the matrix of confusion."""
    found: dict[str, Any] = {
        "validation_rows": scores_of(task, scored.examples, scored.decoded).size,
        "watched": task.default_metric[0],
        "metrics": rounded(scored.evaluation.metrics),
        "intervals": {
            name: [round(each.low, 4), round(each.high, 4)]
            for name, each in intervals(scores_of(task, scored.examples, scored.decoded)).items()
        },
        "labels": [rounded(each) for each in scored.evaluation.table],
    }
    choices = task.label_choices(scored.examples, scored.decoded)
    if choices is not None and len(choices.labels) <= MOST_LABELS:
        matrix = [[int(each) for each in row] for row in choices.confusion()]
        found["confusion"] = {"labels": list(choices.labels), "matrix": matrix}
    return found
