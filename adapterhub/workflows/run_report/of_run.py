"""The report of a run that has just ended."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.workflows.run_report.bias_audit_section import probe_run
from adapterhub.workflows.run_report.cost_section import Cost, device_memory, peak_memory
from adapterhub.workflows.run_report.report import RunFacts, write_report

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.base import Task
    from adapterhub.training.energy import Energy
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult
    from adapterhub.workflows.run_report.report import ReportOptions

_LOG = logging.getLogger(__name__)


def report_on(
    result: TrainResult,
    *,
    recipe: Recipe,
    data: PreparedData,
    task: Task,
    model: TaskModel,
    before: Predictions | None,
    after: Predictions | None,
    log: Path,
    options: ReportOptions,
    energy: Energy | None = None,
) -> TrainResult:
    """Write the report and return the result with its path; without one where that fails.

    Args:
        result: of the run.
        recipe: of the run.
        data: that it learned from.
        task: that it learned.
        model: that was trained.
        before: predictions of the untrained adapter; ``None`` in a run that was resumed.
        after: predictions of the adapter; without them there is no report.
        log: of the run.
        options: how thorough the report is.
        energy: that the run took, where it was estimated.
    """
    if after is None:
        return result
    cost = Cost(
        seconds=result.seconds,
        steps=result.steps,
        tokens_per_second=result.tokens_per_second,
        trained_share=result.trained_share,
        artifact_bytes=result.artifact_bytes,
        peak_bytes=peak_memory(),
        device_bytes=device_memory(model.backbone.device),
        energy=energy,
    )
    facts = RunFacts(
        recipe=recipe,
        data=data,
        task=task,
        model=model,
        backbone=f"{model.backbone.name}, {model.backbone.quantization.scheme}",
        before=before,
        known_before=result.before,
        after=after,
        log=log,
        digest=result.digest,
        cost=cost,
        inherited=probe_run(
            model, task, data, after, seconds=options.probe_seconds, level=options.level
        ),
    )
    try:
        return replace(result, report=write_report(result.folder, facts, options))
    except Exception:  # noqa: BLE001, logged below
        # the adapter is trained, and not yet registered; a page about it is not worth losing it
        _LOG.exception("the report could not be written")
        return result
