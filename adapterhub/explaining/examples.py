"""Explain a few answers of an evaluation, within bounds of time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.explaining.attribution import evaluating
from adapterhub.explaining.choosing import choose, judge
from adapterhub.explaining.explain import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.explaining.choosing import Judged
    from adapterhub.explaining.explanation import Explanation
    from adapterhub.tasks.base import Row, Task

#: Most answers that are explained; see ``choose``.
_ANSWERS = 3
#: A step is a pass forward and one back, which takes about as long as two forward.
_PASSES = 3
#: Tokens by which the time of a pass is measured.
_TIMED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Bounds:
    """What explaining a few answers may take.

    Args:
        steps: points of the path of each; see ``attribute``.
        tokens: longest row.
        seconds: for all answers; on a slow backbone shorter rows are taken, or none.
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

    answers = judge(task, rows, decoded)
    if not answers:
        return []
    longest = min(bounds.tokens, _affordable(model, task, rows[answers[0].place], bounds))

    def fits(each: Judged) -> bool:
        example = task.encode(rows[each.place], each.place + 1, train=False)
        return example is not None and len(example) <= longest

    return [
        ExplainedExample(
            why,
            each.expected,
            explain(
                model, task, rows[each.place], label=each.label, span=each.span, steps=bounds.steps
            )[0],
        )
        for why, each in choose(answers, fits).items()
    ]


def _affordable(model: TaskModel, task: Task, row: Row, bounds: Bounds) -> int:
    """Return how many tokens a row may have so that all answers keep to their time."""
    example = task.encode(row, 1, train=False)
    if example is None:
        return 0
    count = max(1, _TIMED_TOKENS // len(example))
    batch = pack([example] * count).to(model.backbone.device)
    with evaluating(model), torch.no_grad():
        began = time.perf_counter()
        float(model.hidden(batch).float().sum())
        each = (time.perf_counter() - began) / batch.tokens
    return int(bounds.seconds / (_ANSWERS * bounds.steps * _PASSES * each))
