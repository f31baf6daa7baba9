"""Explain a few answers of an evaluation, within bounds of time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.explaining.choosing import choose, judge
from adapterhub.explaining.explain import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.explaining.choosing import Judged
    from adapterhub.explaining.explanation import Explanation
    from adapterhub.tasks.base import Row, Task


@dataclass(frozen=True, slots=True)
class Bounds:
    """What explaining a few answers may take.

    Args:
        steps: points of the path of each; see ``attribute``.
        tokens: longest row.
        seconds: after which no further answer is begun.
    """

    steps: int = 20
    tokens: int = 128
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class ExplainedExample:
    """An answer with its explanation.

    Args:
        why: it was chosen.
        expected: the right answer.
        found: the explanation of what was said.
    """

    why: str
    expected: str
    found: Explanation


#: What the report of a run takes.
PLAIN_BOUNDS = Bounds()


def explain_examples(
    model: TaskModel,
    task: Task,
    rows: Sequence[Row],
    decoded: Sequence[Any],
    bounds: Bounds = PLAIN_BOUNDS,
) -> list[ExplainedExample]:
    """Explain a few answers of each kind that ``choose`` knows.

    Args:
        model: that gave them, with its adapter active.
        task: that it was trained for.
        rows: with their answers, or the windows of rows.
        decoded: raw prediction of each, as ``Task.decode`` gives it.
        bounds: of time.

    Returns:
        None for a task whose answers can't be explained so.

    Raises:
        MissingExtraError: when Captum isn't installed.
    """

    def fits(each: Judged) -> bool:
        example = task.encode(rows[each.place], each.place + 1, train=False)
        return example is not None and len(example) <= bounds.tokens

    began = time.monotonic()
    explained = []
    for why, each in choose(judge(task, rows, decoded), fits).items():
        if time.monotonic() - began > bounds.seconds:
            break
        found = explain(
            model, task, rows[each.place], label=each.label, span=each.span, steps=bounds.steps
        )
        explained.append(ExplainedExample(why, each.expected, found[0]))
    return explained
