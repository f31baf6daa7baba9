"""The run report: ``report.html`` for people and ``report.json`` for programs."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import finite
from adapterhub.errors import MissingExtraError
from adapterhub.evaluation.attribution.examples import explain_examples
from adapterhub.evaluation.bias_audit.results import BiasAuditResult
from adapterhub.evaluation.calibration import calibration, temperature_of
from adapterhub.evaluation.duplicates import leak, split_facts
from adapterhub.evaluation.errors import worst_examples
from adapterhub.evaluation.example_statistics import units_of
from adapterhub.training.curves import plot_curves, read_curves
from adapterhub.training.run_folder import LOG_NAME
from adapterhub.workflows.run_report.bias_audit_section import audit_run, bias_audit_section
from adapterhub.workflows.run_report.blocks import Figure, Section, Text, render_page
from adapterhub.workflows.run_report.cost_section import cost_of, cost_section
from adapterhub.workflows.run_report.data_section import data_section, warnings
from adapterhub.workflows.run_report.explanation_section import TITLE as EXPLANATIONS
from adapterhub.workflows.run_report.explanation_section import explanations_section
from adapterhub.workflows.run_report.failures import log_failure
from adapterhub.workflows.run_report.prediction_sections import (
    calibration_section,
    confusion_section,
    errors_section,
    labels_section,
    reported_metrics,
    results_section,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.predictions import Confidence
    from adapterhub.training.result import TrainingEvidence, TrainResult
    from adapterhub.workflows.run_report.bias_audit_section import AuditOutcome
    from adapterhub.workflows.run_report.options import ReportOptions
    from adapterhub.workflows.run_report.prediction_sections import ReportedMetric

logger = logging.getLogger(__name__)

REPORT_NAME, SUMMARY_NAME = "report.html", "report.json"


def report_run(result: TrainResult, model: TaskModel, options: ReportOptions) -> TrainResult:
    """Write the report of a run and return the result with its page and intervals.

    A report that fails is logged, and the result is returned as it is: the adapter is trained
    and must not be lost for a page about it. The model is closed, since the audit runs the stored
    adapter on its backbone.
    """
    if result.evidence is None:
        return result
    summary: dict[str, Any] = {"name": result.evidence.recipe.name, "digest": result.digest}
    explained = _explanations(result.evidence, model, options, summary)
    model.close()
    backbone = model.backbone
    audit = audit_run(
        backbone,
        result.artifact,
        result.evidence,
        seconds=options.audit_seconds,
        level=options.level,
    )
    try:
        return _write_report(result, result.evidence, backbone, summary, explained, audit, options)
    except Exception as error:  # noqa: BLE001
        log_failure(logger, "the report could not be written", error)
        return result


def _write_report(
    result: TrainResult,
    evidence: TrainingEvidence,
    backbone: Backbone,
    summary: dict[str, Any],
    explained: Section,
    audit: AuditOutcome,
    options: ReportOptions,
) -> TrainResult:
    draw = _can_draw()
    metrics = reported_metrics(evidence, result.before, options.resamples, options.level)
    cost = cost_of(result, backbone.device)
    sections = [
        *_results(evidence, metrics, options, summary),
        *_predictions(evidence, options, summary, draw=draw),
        explained,
        _data(evidence, summary),
        *([_curves(result.folder / LOG_NAME)] if draw else []),
        bias_audit_section(audit),
        cost_section(cost),
    ]
    summary["bias_audit"] = asdict(audit) if isinstance(audit, BiasAuditResult) else audit
    summary["cost"] = asdict(cost)
    base = f"{backbone.name}, {backbone.quantization.scheme}"
    subtitle = f"{evidence.task.name} on {base}; {result.digest}"
    page = result.folder / REPORT_NAME
    page.write_text(render_page(evidence.recipe.name, subtitle, sections), encoding="utf-8")
    text = json.dumps(finite(summary), indent=2, ensure_ascii=False, allow_nan=False)
    (result.folder / SUMMARY_NAME).write_text(f"{text}\n", encoding="utf-8")
    intervals = {name: each.interval for name, each in metrics.items() if each.interval}
    return replace(result, report=page, intervals=intervals)


def _results(
    evidence: TrainingEvidence,
    metrics: Mapping[str, ReportedMetric],
    options: ReportOptions,
    summary: dict[str, Any],
) -> list[Section]:
    # a long example may have been scored in windows
    count = len(units_of(evidence.task, evidence.after.examples))
    table = evidence.after.evaluation.table
    summary["num_examples"] = count
    summary["metrics"] = {name: asdict(each) for name, each in metrics.items()}
    summary["labels"] = [dict(each) for each in table]
    return [results_section(metrics, count, options.level), labels_section(table)]


def _predictions(
    evidence: TrainingEvidence, options: ReportOptions, summary: dict[str, Any], *, draw: bool
) -> list[Section]:
    task, after = evidence.task, evidence.after
    sections: list[Section] = []
    choices = task.label_choices(after.examples, after.decoded)
    if choices is not None:
        sections.append(confusion_section(choices, draw=draw))
    confidence = task.confidence(after.examples, after.decoded)
    if confidence is not None:
        sections.append(_calibration(evidence, options, summary, confidence, draw=draw))
    errors = worst_examples(task, after.examples, after.decoded, count=options.max_errors)
    return [*sections, errors_section(errors)]


def _calibration(
    evidence: TrainingEvidence,
    options: ReportOptions,
    summary: dict[str, Any],
    confidence: Confidence,
    *,
    draw: bool,
) -> Section:
    found = calibration(confidence.predicted, confidence.correct)
    temperature = None
    enabled = options.temperature or evidence.recipe.task.calibrate
    if enabled and confidence.probabilities is not None and confidence.gold is not None:
        temperature = temperature_of(confidence.probabilities, confidence.gold)
    summary["calibration"] = {
        "error": found.error,
        "temperature": None if temperature is None else asdict(temperature),
    }
    stored = evidence.recipe.task.temperature
    return calibration_section(found, temperature, confidence.unit, stored, draw=draw)


def _explanations(
    evidence: TrainingEvidence, model: TaskModel, options: ReportOptions, summary: dict[str, Any]
) -> Section:
    """Return a few explained predictions; an empty section where they are switched off."""
    task, after = evidence.task, evidence.after
    if options.explanations is None:
        return Section(EXPLANATIONS)
    # what an encoder-decoder writes has no attribution yet
    explains = task.attribution is not None or task.head == "causal_lm"
    if not explains:
        return explanations_section((), explains=False)
    try:
        found = explain_examples(model, task, after.examples, after.decoded, options.explanations)
    except MissingExtraError as error:
        logger.warning("the report explains no predictions: %s", error)
        return Section(EXPLANATIONS)
    except Exception as error:  # noqa: BLE001
        # the rest of the report is worth having without it
        log_failure(logger, "the predictions could not be explained", error)
        return explanations_section(None, explains=True)
    summary["explanations"] = [
        {"why": each.why, "expected": each.expected, **each.found.document()} for each in found
    ]
    return explanations_section(found, explains=True)


def _data(evidence: TrainingEvidence, summary: dict[str, Any]) -> Section:
    splits = evidence.data.splits
    training = splits["train"]
    others = {name: examples for name, examples in splits.items() if name != "train"}
    facts = [split_facts("train", training), *(split_facts(n, e) for n, e in others.items())]
    leaks = [leak(name, examples, training) for name, examples in others.items()]
    summary["data"] = {
        "splits": [asdict(each) for each in facts],
        "leaks": [asdict(each) for each in leaks],
        "warnings": warnings(facts, leaks),
    }
    return data_section(facts, leaks, dropped=evidence.data.dropped)


def _curves(log: Path) -> Section:
    (svg,) = plot_curves(read_curves(log), names=["loss.svg"]).values()
    figure = Figure(svg, "Training loss and watched metric over the run")
    note = Text(
        "The metric is computed on the validation examples, the loss on the examples of each step."
    )
    return Section("Curves", (figure, note))


def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("the report has no figures: %s", MissingExtraError("matplotlib", "report"))
        return False
    return True
