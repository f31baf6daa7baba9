"""*What it inherited*: bias and harm of the adapter beside those of the backbone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from adapterhub.probes.inherited import find_inherited
from adapterhub.probes.wording import headings, notes, rows
from adapterhub.training.report.blocks import Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.probes.measures import Inherited, Shown
    from adapterhub.tasks.base import Task
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.report.blocks import Block

logger = logging.getLogger(__name__)

TITLE = "What it inherited"
_LONGEST = 300


def probe_run(
    model: TaskModel, task: Task, data: PreparedData, *, seconds: float, level: float
) -> Inherited | Literal["failed"] | None:
    """Return what the probes find of a run's adapter; ``None`` where no probe fits the task.

    Args:
        model: with the adapter that the run ends with.
        task: that it learned.
        data: that it learned from; words are exchanged in the validation rows.
        seconds: after which no more is started; 0 for no probe.
        level: confidence of the intervals.
    """
    if not seconds:
        return None
    try:
        return find_inherited(
            model,
            task,
            rows=data.splits["validation"].rows,
            training=data.splits["train"].rows,
            seconds=seconds,
            level=level,
        )
    except Exception:
        # all else of the report is as good as before
        logger.exception("the probes of what the adapter inherited failed")
        return "failed"


def inherited_section(found: Inherited | Literal["failed"] | None) -> Section:
    """Return the section; an empty one where nothing was found."""
    if found == "failed":
        failed = "What it inherited could not be measured; the log of the run says why."
        return Section(TITLE, (Text(failed, warning=True),))
    if found is None or not found.measures:
        return Section(TITLE)
    said = notes(found)
    first = [Text(each.text, warning=True) for each in said if each.warning]
    rest = [Text(each.text) for each in said if not each.warning]
    blocks: list[Block] = [*first, Table(headings(found), rows(found)), *rest]
    if found.examples:
        blocks.append(_examples(found))
    return Section(TITLE, blocks)


def _examples(found: Inherited) -> Table:
    if found.probe == "harm":
        columns: Sequence[str] = ("asked", "backbone", "adapter")
        caption = "Answers, those that got worse first."
        cells = [(_cut(each.text), _cut(each.before), _cut(each.after)) for each in found.examples]
        return Table(columns, cells, caption=caption)
    columns = ("text", "adapter said", "with words exchanged", "adapter said")
    caption = "Pairs whose answer changed most."
    return Table(columns, [_pair(each) for each in found.examples], caption=caption)


def _pair(each: Shown) -> tuple[str, ...]:
    return (_cut(each.text), _cut(each.before), _cut(each.other), _cut(each.after))


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"
