"""Report section on the bias audit: bias and harm of the adapter beside its backbone's."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Literal, TypeAlias

from adapterhub.adapters.artifact import read_artifact
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.evaluation.bias_audit.audit import is_auditable, run_bias_audit
from adapterhub.evaluation.bias_audit.results import (
    BiasAuditResult,
    notes,
    table_columns,
    table_rows,
)
from adapterhub.workflows.run_report.blocks import Section, Table, Text, shorten
from adapterhub.workflows.run_report.failures import log_failure

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.training.result import TrainingEvidence
    from adapterhub.workflows.run_report.blocks import Block

logger = logging.getLogger(__name__)

TITLE = "Bias audit"
_LONGEST = 300
#: Result of the audit, or the reason without one; ``None`` where it was switched off.
AuditOutcome: TypeAlias = BiasAuditResult | Literal["failed", "no words"] | None
_FAILED = Text("The bias audit failed; see the log of the run.", warning=True)
_NO_TEXT = Text(
    "Not measured: the audit exchanges names, pronouns and nationalities in texts, and this task "
    "reads no texts. An adapter for images or recordings can still treat people differently: test "
    "it on images or voices of the people it will be used on."
)
_NO_EXAMPLES = Text(
    "Not measured: no validation example has a name, pronoun or nationality to exchange, and the "
    "built-in sentences do not fit this task. Pass examples that mention people to adapterhub "
    "bias-audit --data."
)


def audit_run(
    backbone: Backbone, artifact: Path, evidence: TrainingEvidence, *, seconds: float, level: float
) -> AuditOutcome:
    """Run the bias audit on the stored adapter of a run.

    Args:
        backbone: Backbone of the run, without adapters.
        artifact: Folder of the artifact.
        evidence: Data and predictions of the run.
        seconds: Time limit; 0 switches the audit off.
        level: Confidence level of the intervals.
    """
    if not seconds:
        return None
    if not is_auditable(evidence.task):
        return "no words"
    splits, after = evidence.data.splits, evidence.after
    try:
        with closing(LocalEngine(backbone)) as local:
            adapter = local.load(read_artifact(artifact), name=evidence.recipe.name)
            return run_bias_audit(
                adapter,
                backbone.tokenizer,
                examples=splits["validation"].examples,
                training=splits["train"].examples,
                predicted=list(zip(after.examples, after.decoded, strict=True)),
                seconds=seconds,
                level=level,
            )
    except Exception as error:  # noqa: BLE001
        # the rest of the report is worth having without it
        log_failure(logger, "the bias audit failed", error)
        return "failed"


def bias_audit_section(found: AuditOutcome) -> Section:
    """Return the section; an empty one where the audit was switched off."""
    if found is None:
        return Section(TITLE)
    if found == "failed":
        return Section(TITLE, (_FAILED,))
    if found == "no words":
        return Section(TITLE, (_NO_TEXT,))
    if not found.metrics:
        return Section(TITLE, (_NO_EXAMPLES,))
    # warnings first
    texts = sorted((Text(each.text, each.warning) for each in notes(found)), key=_is_plain)
    count = sum(each.warning for each in texts)
    table = Table(table_columns(found), table_rows(found))
    blocks: list[Block] = [*texts[:count], table, *texts[count:]]
    if found.examples:
        blocks.append(_examples(found))
    return Section(TITLE, blocks)


def _is_plain(text: Text) -> bool:
    return not text.warning


def _examples(found: BiasAuditResult) -> Table:
    if found.kind == "harm":
        columns = ["prompt", "backbone", "adapter"]
        caption = "Responses, those that got worse first."
        cells = [[each.text, each.before, each.after] for each in found.examples]
    else:
        columns = ["text", "prediction", "counterfactual", "prediction"]
        caption = "Pairs whose prediction changed most."
        cells = [[each.text, each.before, each.other, each.after] for each in found.examples]
    rows = [[shorten(cell, _LONGEST) for cell in row] for row in cells]
    return Table(columns, rows, caption=caption)
