"""A temperature for an adapter's probabilities, fitted on the validation rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.calibration import temperature_of
from adapterhub.evaluation.confidence import confidence_of

if TYPE_CHECKING:
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe


def fit_temperature(
    recipe: Recipe, task: Task, scored: Predictions | None, reporter: Reporter
) -> Recipe:
    """Return the recipe with the temperature that was fitted, where it asks for one.

    None is kept that does not help: one half of the rows must be foretold better by the
    temperature of the other half. And where every row is right there is nothing to fit, since
    surer would always look better.

    Args:
        recipe: of the run.
        task: that it learned.
        scored: predictions of what is stored, on the validation rows.
        reporter: hears what came of it.
    """
    if not recipe.task.calibrate:
        return recipe
    found = None if scored is None else confidence_of(task, scored.rows, scored.decoded)
    if found is None or found.probabilities is None or found.gold is None or found.right.all():
        reporter.on_message("no temperature is stored: no validation row is answered wrongly")
        return recipe
    fitted = temperature_of(found.probabilities, found.gold)
    if fitted.nll_after >= fitted.nll_before:
        reporter.on_message("no temperature is stored: it does not help on the validation rows")
        return recipe
    # the predictions were made with the temperature that the recipe began with
    value = round(recipe.task.temperature * fitted.value, 4)
    reporter.on_message(
        f"temperature {value:g}: expected calibration error {fitted.before:.4f} without it, "
        f"{fitted.after:.4f} with it"
    )
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"temperature": value})})
