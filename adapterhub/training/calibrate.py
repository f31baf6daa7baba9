"""A temperature for an adapter's probabilities, fitted on the validation rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapterhub.assessment.calibration import temperature_of
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.rows import required
from adapterhub.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from adapterhub.assessment.row_statistics import Array
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Scored
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe


def calibrated(recipe: Recipe, task: Task, scored: Scored | None, reporter: Reporter) -> Recipe:
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
    found = None if scored is None else _probabilities(task, scored)
    if found is None or (found[0].argmax(-1) == found[1]).all():
        reporter.on_message("no temperature is stored: no validation row is answered wrongly")
        return recipe
    fitted = temperature_of(*found)
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


def _probabilities(task: Task, scored: Scored) -> tuple[Array, Array] | None:
    """Return ``[rows, labels]`` and the index of each row's label."""
    if isinstance(task, Ranking):
        likely = np.array(scored.decoded, dtype=float)
        table: Array = np.stack((1.0 - likely, likely), axis=-1)
    elif isinstance(task, TextClassification | RelationExtraction):
        table = np.array([chances.numpy() for chances in scored.decoded], dtype=float)
    else:
        return None
    texts = task if isinstance(task, TextClassification) else task.texts
    gold = [
        texts.index.index(required(row, "label", number), number, "label")
        for number, row in enumerate(scored.rows, start=1)
    ]
    return table, np.array(gold, dtype=int)
