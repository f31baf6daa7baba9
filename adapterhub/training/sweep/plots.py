"""Plots of a study: history, parameter importance and parallel coordinates."""

from __future__ import annotations

import io
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MissingExtraError
from adapterhub.training.sweep.study import import_optuna

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna

logger = logging.getLogger(__name__)

PLOT_NAMES = ("history.png", "importance.png", "parallel.png")


def draw_study(study: optuna.Study, metric: str) -> dict[str, bytes]:
    """Return the plots of a study by file name; equal studies give equal bytes.

    Importance is left out without two complete trials of different value.
    """
    optuna = import_optuna()
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingExtraError("matplotlib", "sweep") from None
    from optuna.visualization import matplotlib as views

    drawers: dict[str, Callable[[], Any]] = {}
    values = _complete_values(study)
    if values:
        drawers["history.png"] = lambda: views.plot_optimization_history(study, target_name=metric)
        drawers["parallel.png"] = lambda: views.plot_parallel_coordinate(study, target_name=metric)
    if len(values) > 1 and max(values) > min(values):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        drawers["importance.png"] = lambda: views.plot_param_importances(
            study, evaluator=evaluator, target_name=metric
        )
    with warnings.catch_warnings(), pyplot.style.context("default"):
        # Optuna marks its matplotlib plots as experimental
        warnings.simplefilter("ignore")
        return {name: _render(pyplot, drawers[name]) for name in PLOT_NAMES if name in drawers}


def _complete_values(study: optuna.Study) -> list[float]:
    states = (import_optuna().trial.TrialState.COMPLETE,)
    found = [each.value for each in study.get_trials(deepcopy=False, states=states)]
    return [value for value in found if value is not None and math.isfinite(value)]


def _render(pyplot: Any, draw: Callable[[], Any]) -> bytes:
    axes = draw()
    figure = axes.figure
    figure.set_size_inches(9, 5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()
