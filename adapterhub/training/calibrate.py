"""Temperature scaling fitted on the validation examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.calibration import temperature_of

if TYPE_CHECKING:
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe


def fit_temperature(
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
