"""Explain a few answers of an evaluation, within bounds of time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.explaining.attribution import evaluating, method_for
from adapterhub.explaining.choosing import choose, foretold, judge
from adapterhub.explaining.explain import explain, explain_text
from adapterhub.explaining.explanation import LARGE_GAP
from adapterhub.explaining.reading import instructed_dialogue, read_conversation
from adapterhub.tasks.instructed import Instructed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import Example
    from adapterhub.explaining.choosing import Judged
    from adapterhub.explaining.explanation import Explanation
    from adapterhub.tasks.base import GeneratingTask, Row, Task
    from adapterhub.tasks.chat_template import Message
    from adapterhub.tasks.dialogue import Dialogue

#: Most answers that are explained; see ``choose``.
_ANSWERS = 3
#: A step is a pass forward and one back, which takes about as long as two forward.
_PASSES = 3
#: Characters of an answer in text that are explained.
_BEGINNING = 160
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
    seconds: float = 10.0


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
    """Explain a few answers of each kind that ``choose``, or ``foretold``, knows.

    Args:
        model: that gave them, with its adapter active.
        task: that it was trained for.
        rows: with their answers, or the windows of rows.
        decoded: raw prediction of each, as ``Task.decode`` gives it.
        bounds: of time.

    Returns:
        None of them for a task whose answers can't be explained so, or where no row is short.

    Raises:
        MissingExtraError: when Captum isn't installed.
    """

    if not rows:
        return []
    if instructed_dialogue(task) is not None:
        return list(_texts(model, cast("GeneratingTask", task), rows, decoded, bounds))
    answers = judge(task, rows, decoded)
    if not answers:
        return []
    longest = min(bounds.tokens, _affordable(model, task, rows[answers[0].place], bounds))

    def fits(each: Judged) -> bool:
        example = task.encode(rows[each.place], each.place + 1, train=False)
        return example is not None and len(example) <= longest

    return [
        ExplainedExample(
            why, each.expected, _explained(model, task, rows[each.place], each, bounds)
        )
        for why, each in choose(answers, fits).items()
    ]


def _explained(model: TaskModel, task: Task, row: Row, said: Judged, bounds: Bounds) -> Explanation:
    """Explain an answer with half of the steps, and with all where that leaves a gap."""
    for steps in (bounds.steps // 2, bounds.steps):
        (found, *_) = explain(model, task, row, label=said.label, span=said.span, steps=steps)
        if found.gap_share <= LARGE_GAP:
            break
    return found


def _texts(
    model: TaskModel,
    task: GeneratingTask,
    rows: Sequence[Row],
    decoded: Sequence[Any],
    bounds: Bounds,
) -> Iterator[ExplainedExample]:
    """Yield the beginnings of a row's own answers that were foretold best and worst."""
    dialogue = instructed_dialogue(task)
    longest: int | None = None
    for why, places in foretold(decoded).items():
        for place in places:
            messages, answer = _exchange(task, rows[place], place + 1)
            try:
                reading = read_conversation(dialogue, messages, answer) if dialogue else None
            except DataError:
                continue
            if reading is None or not reading.words:
                continue
            if longest is None:
                example = reading.example
                longest = min(bounds.tokens, _affordable_of(model, example, bounds))
            if len(reading.example) <= longest:
                found = explain_text(model, task, messages, answer, steps=bounds.steps)
                yield ExplainedExample(why, found.answer, found)
                break


def _exchange(task: GeneratingTask, row: Row, number: int) -> tuple[list[Message], str]:
    """Return what a row asks, and the beginning of its own answer."""
    if isinstance(task, Instructed):
        answer = task.wording.references(row, number)[0]
        messages = task.question(row, number)
    else:
        messages, answer = cast("Dialogue", task).question_and_reference(row, number)
    if len(answer) > _BEGINNING:
        answer = answer[:_BEGINNING].rpartition(" ")[0] or answer[:_BEGINNING]
    return messages, answer


def _affordable(model: TaskModel, task: Task, row: Row, bounds: Bounds) -> int:
    """Return how many tokens a row may have so that all answers keep to their time."""
    example = task.encode(row, 1, train=False)
    return 0 if example is None else _affordable_of(model, example, bounds)


def _affordable_of(model: TaskModel, example: Example, bounds: Bounds) -> int:
    count = max(1, _TIMED_TOKENS // len(example))
    batch = pack([example] * count).to(model.backbone.device)
    with evaluating(model), torch.no_grad():
        began = time.perf_counter()
        float(model.hidden(batch).float().sum())
        each = (time.perf_counter() - began) / batch.tokens
    passed = bounds.seconds / (_ANSWERS * each)
    if method_for(model) == "ablation":
        # a row is read once for each of its words, of which there are fewer than tokens
        return int(passed**0.5)
    return int(passed / (bounds.steps * _PASSES))
