"""Predict and score examples with a task model, and calibrate its confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import pack
from adapterhub.evaluation.calibration import temperature_of
from adapterhub.tasks.base import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe

#: Tokens per evaluation batch: enough to keep the cores busy, small beside training.
EVALUATION_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predictions for labelled examples, and their metrics.

    Args:
        examples: Labelled examples, or windows of them where the task reads windows.
        decoded: Raw prediction for each of ``examples``, as ``Task.decode`` returns it.
        evaluation: Metrics of the predictions.
    """

    examples: Sequence[Mapping[str, Any]]
    decoded: Sequence[Any]
    evaluation: Evaluation


def score_encoded(
    model: TaskModel,
    task: Task,
    examples: Sequence[Mapping[str, Any]],
    encoded: Sequence[EncodedExample],
) -> Predictions:
    """Return predictions and metrics for encoded examples, the mean loss among them.

    The model's training mode is restored afterwards.
    """
    decoded: list[Any] = [None] * len(examples)
    total_loss = total_weight = 0.0
    training = model.training
    model.eval()
    with torch.no_grad():
        for indices in batches_by_length([len(each) for each in encoded], EVALUATION_TOKENS):
            batch = pack([encoded[index] for index in indices]).to(model.backbone.device)
            hidden = model.hidden(batch)
            total_loss += float(task.loss(model.head, hidden, batch))
            total_weight += task.weight(batch)
            outputs = task.decode(model.head, hidden, batch)
            for index, output in zip(indices, outputs, strict=True):
                decoded[index] = output
    model.train(training)
    scored = task.evaluate(examples, decoded)
    loss = total_loss / total_weight if total_weight else 0.0
    evaluation = Evaluation(metrics={"loss": loss, **scored.metrics}, table=scored.table)
    return Predictions(examples, decoded, evaluation)


def encode_labelled(
    task: Task, examples: Sequence[Example]
) -> tuple[list[Example], list[EncodedExample]]:
    """Return labelled examples, or windows of them, and how they are encoded.

    Those with nothing to score are left out.

    Raises:
        DataError: naming the example that can't be used.
    """
    kept: list[Example] = []
    encoded: list[EncodedExample] = []
    for number, example in enumerate(examples, start=1):
        for window in task.windows(example) if task.reads_windows else [example]:
            found = task.encode(window, number, train=True)
            if found is not None:
                kept.append(window)
                encoded.append(found)
    return kept, encoded


def calibrate_recipe(
    recipe: Recipe, task: Task, predictions: Predictions, reporter: Reporter
) -> Recipe:
    """Return the recipe with a fitted temperature, where it enables ``task.calibrate``.

    A temperature is kept only if it helps: fitted on one half of the examples, it must lower the
    loss of the other half. Where every prediction is correct there is nothing to fit, since a
    higher confidence would always look better.
    """
    if not recipe.task.calibrate:
        return recipe
    found = task.confidence(predictions.examples, predictions.decoded)
    if found is None or found.probabilities is None or found.gold is None or found.correct.all():
        reporter.on_message("no temperature is stored: no validation prediction is wrong")
        return recipe
    fitted = temperature_of(found.probabilities, found.gold)
    if fitted.nll_after >= fitted.nll_before:
        reporter.on_message("no temperature is stored: it does not help on the validation examples")
        return recipe
    # the predictions were made with the temperature that the recipe started with
    value = round(recipe.task.temperature * fitted.value, 4)
    reporter.on_message(
        f"temperature {value:g}: expected calibration error {fitted.before:.4f} without it, "
        f"{fitted.after:.4f} with it"
    )
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"temperature": value})})
