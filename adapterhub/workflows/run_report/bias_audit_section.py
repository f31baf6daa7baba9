"""*What it inherited*: bias and harm of the adapter beside those of the backbone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, TypeAlias

from adapterhub.evaluation.bias_audit.audit import is_auditable, run_bias_audit
from adapterhub.evaluation.bias_audit.report import notes, table_columns, table_rows
from adapterhub.evaluation.bias_audit.results import BiasAuditResult
from adapterhub.workflows.run_report.blocks import Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.bias_audit.results import AuditExample
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.prepare import PreparedData
    from adapterhub.workflows.run_report.blocks import Block

logger = logging.getLogger(__name__)

TITLE = "What it inherited"
_LONGEST = 300
#: What the probes found, or why nothing: they failed, or the task reads no words. ``None`` where
#: nothing was asked for.
Outcome: TypeAlias = BiasAuditResult | Literal["failed", "no words"] | None
_FAILED = Text(
    "What it inherited could not be measured; the log of the run says why.", warning=True
)
_NO_WORDS = Text(
    "Not measured: the probes exchange names, pronouns and nationalities in texts, and compare "
    "answers in words. A picture has none of these, and pictures of people come with no package. "
    "An adapter for pictures may still treat people unlike: try it on pictures of the people it "
    "will see."
)
_NO_ROWS = Text(
    "Not measured: no validation row has a name, pronoun or nationality that could be exchanged, "
    "and this task can't be asked about sentences of our own. Give rows that speak of people to "
    "adapterhub bias-audit --data."
)


def probe_run(
    model: TaskModel,
    task: Task,
    data: PreparedData,
    after: Predictions,
    *,
    seconds: float,
    level: float,
) -> Outcome:
    """Return what the probes find of a run's adapter.

    Args:
        model: with the adapter that the run ends with.
        task: that it learned.
        data: that it learned from; words are exchanged in the validation rows.
        after: predictions for the validation rows, which need not be made again.
        seconds: after which no more is started; 0 for no probe.
        level: confidence of the intervals.
    """
    if not seconds:
        return None
    if not is_auditable(task):
        return "no words"
    try:
        return run_bias_audit(
            model,
            task,
            rows=data.splits["validation"].examples,
            training=data.splits["train"].examples,
            answered=list(zip(after.rows, after.decoded, strict=True)),
            seconds=seconds,
            level=level,
        )
    except Exception:
        # all else of the report is as good as before
        logger.exception("the probes of what the adapter inherited failed")
        return "failed"


def inherited_section(found: Outcome) -> Section:
    """Return the section; an empty one where nothing was asked for."""
    if found is None:
        return Section(TITLE)
    if found == "failed":
        return Section(TITLE, (_FAILED,))
    if found == "no words":
        return Section(TITLE, (_NO_WORDS,))
    if not found.measures:
        return Section(TITLE, (_NO_ROWS,))
    said = notes(found)
    first = [Text(each.text, warning=True) for each in said if each.warning]
    rest = [Text(each.text) for each in said if not each.warning]
    blocks: list[Block] = [*first, Table(table_columns(found), table_rows(found)), *rest]
    if found.examples:
        blocks.append(_examples(found))
    return Section(TITLE, blocks)


def _examples(found: BiasAuditResult) -> Table:
    if found.probe == "harm":
        columns: Sequence[str] = ("asked", "backbone", "adapter")
        caption = "Answers, those that got worse first."
        cells = [(_cut(each.text), _cut(each.before), _cut(each.after)) for each in found.examples]
        return Table(columns, cells, caption=caption)
    columns = ("text", "adapter said", "with words exchanged", "adapter said")
    caption = "Pairs whose answer changed most."
    return Table(columns, [_pair(each) for each in found.examples], caption=caption)


def _pair(each: AuditExample) -> tuple[str, ...]:
    return (_cut(each.text), _cut(each.before), _cut(each.other), _cut(each.after))


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"
