"""The whole report of a training run, for people and for programs."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MissingExtraError
from adapterhub.evaluation.attribution.examples import DEFAULT_BUDGET, explain_examples
from adapterhub.evaluation.bias_audit.results import BiasAuditResult
from adapterhub.evaluation.bootstrap import LEVEL, RESAMPLES
from adapterhub.evaluation.calibration import calibration, temperature_of
from adapterhub.evaluation.confidence import confidence_of
from adapterhub.evaluation.duplicates import leak, split_facts
from adapterhub.evaluation.example_statistics import units_of
from adapterhub.evaluation.labelled import labelled
from adapterhub.evaluation.worst_examples import worst_examples
from adapterhub.training.curves import read_curves
from adapterhub.workflows.run_report.answers import (
    calibration_section,
    confusion_section,
    worst_section,
)
from adapterhub.workflows.run_report.bias_audit_section import inherited_section
from adapterhub.workflows.run_report.blocks import Picture, Section, Text
from adapterhub.workflows.run_report.cost_section import cost_section
from adapterhub.workflows.run_report.data_section import data_section, warnings
from adapterhub.workflows.run_report.explanation_section import TITLE as WHY
from adapterhub.workflows.run_report.explanation_section import why_section
from adapterhub.workflows.run_report.figures import draw_curves
from adapterhub.workflows.run_report.page import render_page
from adapterhub.workflows.run_report.prediction_sections import (
    labels_section,
    metric_rows,
    results_section,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.attribution.examples import AttributionBudget
    from adapterhub.evaluation.confidence import Confidence
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe
    from adapterhub.workflows.run_report.bias_audit_section import Outcome
    from adapterhub.workflows.run_report.cost_section import Cost

logger = logging.getLogger(__name__)

REPORT_NAME, SUMMARY_NAME = "report.html", "report.json"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """How thorough a report is.

    Args:
        resamples: of the bootstrap.
        level: confidence of the intervals.
        temperature: fit one on the validation rows.
        worst: most examples that are shown.
        probe_seconds: after which no more is probed of what the adapter inherited; 0 for nothing.
        explained: bounds of what explaining a few answers may take; none is where ``None``.
    """

    resamples: int = RESAMPLES
    level: float = LEVEL
    temperature: bool = False
    worst: int = 10
    probe_seconds: float = 45.0
    explained: AttributionBudget | None = DEFAULT_BUDGET


#: What a run ends with where nothing else is asked for.
DEFAULT_REPORT = ReportOptions()
#: What one of many runs ends with, whose adapters will mostly not be used.
WITHOUT_BIAS_AUDIT = ReportOptions(probe_seconds=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """All that a report is made of.

    Args:
        recipe: of the run.
        data: that it learned from.
        task: that it learned.
        model: that was trained.
        backbone: its name.
        before: predictions of the untrained adapter; ``None`` in a run that was resumed.
        known_before: metrics of the untrained adapter.
        after: predictions of the adapter.
        log: of the run.
        digest: of the artifact.
        cost: of the run.
        inherited: what the probes found, or why nothing.
    """

    recipe: Recipe
    data: PreparedData
    task: Task
    model: TaskModel
    backbone: str
    before: Predictions | None
    known_before: Mapping[str, float]
    after: Predictions
    log: Path
    digest: str
    cost: Cost
    inherited: Outcome = None


def write_report(folder: Path, facts: RunFacts, options: ReportOptions) -> Path:
    """Write ``report.html``, and ``report.json`` with the same figures for programs.

    Args:
        folder: of the run.
        facts: of the run.
        options: how thorough.

    Returns:
        The path of the page.
    """
    pictures = _can_draw()
    summary: dict[str, Any] = {"name": facts.recipe.name, "digest": facts.digest}
    sections = [
        *_results(facts, options, summary),
        *_answers(facts, options, summary, pictures=pictures),
        _why(facts, options, summary),
        _data(facts, summary),
        *([_curves(facts.log)] if pictures else []),
        inherited_section(facts.inherited),
        cost_section(facts.cost),
    ]
    inherited = facts.inherited
    summary["inherited"] = (
        asdict(inherited) if isinstance(inherited, BiasAuditResult) else inherited
    )
    summary["cost"] = asdict(facts.cost)
    page = folder / REPORT_NAME
    subtitle = f"{facts.task.name} on {facts.backbone}; {facts.digest}"
    page.write_text(render_page(facts.recipe.name, subtitle, sections), encoding="utf-8")
    text = json.dumps(_finite(summary), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / SUMMARY_NAME).write_text(f"{text}\n", encoding="utf-8")
    return page


def _results(facts: RunFacts, options: ReportOptions, summary: dict[str, Any]) -> Sequence[Section]:
    rows = metric_rows(
        facts.task,
        facts.before,
        facts.known_before,
        facts.after,
        resamples=options.resamples,
        level=options.level,
    )
    # a long row may have been scored in windows
    count = len(units_of(facts.task, facts.after.rows))
    summary["rows"] = count
    summary["metrics"] = {name: asdict(row) for name, row in rows.items()}
    summary["labels"] = [dict(row) for row in facts.after.evaluation.table]
    return (
        results_section(rows, count, options.level),
        labels_section(facts.after.evaluation.table),
    )


def _answers(
    facts: RunFacts, options: ReportOptions, summary: dict[str, Any], *, pictures: bool
) -> Sequence[Section]:
    after = facts.after
    found: list[Section] = []
    choices = labelled(facts.task, after.rows, after.decoded)
    if choices is not None:
        found.append(confusion_section(choices, pictures=pictures))
    sure = confidence_of(facts.task, after.rows, after.decoded)
    if sure is not None:
        found.append(_calibration(facts, options, summary, sure, pictures=pictures))
    worst = worst_examples(facts.task, after.rows, after.decoded, count=options.worst)
    return (*found, worst_section(worst))


def _calibration(
    facts: RunFacts,
    options: ReportOptions,
    summary: dict[str, Any],
    found: Confidence,
    *,
    pictures: bool,
) -> Section:
    errors = calibration(found.sure, found.right)
    temperature = None
    wanted = options.temperature or facts.recipe.task.calibrate
    if wanted and found.probabilities is not None and found.gold is not None:
        temperature = temperature_of(found.probabilities, found.gold)
    summary["calibration"] = {
        "error": errors.error,
        "temperature": None if temperature is None else asdict(temperature),
    }
    stored = facts.recipe.task.temperature
    return calibration_section(errors, temperature, found.unit, stored, pictures=pictures)


def _why(facts: RunFacts, options: ReportOptions, summary: dict[str, Any]) -> Section:
    """Return a few answers explained; an empty section where nothing was asked for."""
    after, words = facts.after, facts.task.head != "image"
    if options.explained is None:
        return Section(WHY)
    try:
        found = explain_examples(
            facts.model, facts.task, after.rows, after.decoded, options.explained
        )
    except MissingExtraError as error:
        logger.warning("the report explains no answers: %s", error)
        return Section(WHY)
    except Exception:
        # the rest of the report is worth having without it
        logger.exception("the answers could not be explained")
        return why_section(None, words=words)
    summary["why"] = [
        {"why": each.why, "expected": each.expected, **each.found.document()} for each in found
    ]
    return why_section(found, words=words)


def _data(facts: RunFacts, summary: dict[str, Any]) -> Section:
    splits = facts.data.splits
    training = splits["train"]
    others = {name: rows for name, rows in splits.items() if name != "train"}
    known = [split_facts("train", training), *(split_facts(n, r) for n, r in others.items())]
    leaks = [leak(name, rows, training) for name, rows in others.items()]
    summary["data"] = {
        "splits": [asdict(each) for each in known],
        "leaks": [asdict(each) for each in leaks],
        "warnings": warnings(known, leaks),
    }
    return data_section(known, leaks, dropped=facts.data.dropped)


def _curves(log: Path) -> Section:
    picture = Picture(draw_curves(read_curves(log)), "Loss and watched metric over the run")
    note = Text("The metric is of the validation rows, the loss of the rows of each step.")
    return Section("Curves", (picture, note))


def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("the report has no pictures: %s", MissingExtraError("matplotlib", "report"))
        return False
    return True


def _finite(value: Any) -> Any:
    """Return plain data in which what JSON can't hold is ``None``."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
