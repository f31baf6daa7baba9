"""Explain a few answers of an evaluation, within bounds of time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.explain import explain, explain_text, read_example
from adapterhub.evaluation.attribution.methods import evaluating, method_for
from adapterhub.evaluation.attribution.results import LARGE_GAP
from adapterhub.evaluation.attribution.selection import by_loss, choose, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.attribution.results import Explanation
    from adapterhub.tasks.attribution import AttributionInput, CheckedAnswer
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example

#: Most answers that are explained; see ``choose``.
_ANSWERS = 3
#: A step is a pass forward and one back, which takes about as long as two forward.
_PASSES = 3
#: Characters of an answer in text that are explained.
_BEGINNING = 160
#: Tokens by which the time of a pass is measured.
_TIMED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class AttributionBudget:
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
DEFAULT_BUDGET = AttributionBudget()


def explain_examples(
    model: TaskModel,
    task: Task,
    rows: Sequence[Example],
    decoded: Sequence[Any],
    bounds: AttributionBudget = DEFAULT_BUDGET,
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
    if task.generation is not None:
        return list(_texts(model, task, task.generation, rows, decoded, bounds))
    answers = judge(task, rows, decoded)
    source = task.attribution
    if not answers or source is None:
        return []
    clock = _Affordable(model, bounds)

    def fits(each: CheckedAnswer) -> bool:
        try:
            reading = read_example(source, rows[each.place], task.name)
        except DataError:
            return False
        return clock.fits(reading)

    return [
        ExplainedExample(
            why, each.expected, _explained(model, task, rows[each.place], each, bounds)
        )
        for why, each in choose(answers, fits).items()
    ]


def _explained(
    model: TaskModel, task: Task, row: Example, said: CheckedAnswer, bounds: AttributionBudget
) -> Explanation:
    """Explain an answer with half of the steps, and with all where that leaves a gap."""
    for steps in (bounds.steps // 2, bounds.steps):
        (found, *_) = explain(model, task, row, label=said.label, span=said.span, steps=steps)
        if found.gap_share <= LARGE_GAP:
            break
    return found


def _texts(
    model: TaskModel,
    task: Task,
    generation: TextGeneration,
    rows: Sequence[Example],
    decoded: Sequence[Any],
    bounds: AttributionBudget,
) -> Iterator[ExplainedExample]:
    """Yield the beginnings of a row's own answers that were foretold best and worst."""
    clock = _Affordable(model, bounds)
    for why, places in by_loss(decoded).items():
        for place in places:
            messages, answer = _exchange(generation, rows[place], place + 1)
            try:
                reading = generation.attribution_input(messages, answer)
            except DataError:
                continue
            if reading.words and clock.fits(reading):
                found = explain_text(model, task, messages, answer, steps=bounds.steps)
                yield ExplainedExample(why, found.answer, found)
                break


def _exchange(task: TextGeneration, row: Example, number: int) -> tuple[list[Message], str]:
    """Return the question of an example, and the beginning of its own answer."""
    messages, answer = task.question_and_reference(row, number)
    if len(answer) > _BEGINNING:
        answer = answer[:_BEGINNING].rpartition(" ")[0] or answer[:_BEGINNING]
    return messages, answer


class _Affordable:
    """Tells whether a row can be explained so that all answers keep to their time."""

    def __init__(self, model: TaskModel, bounds: AttributionBudget) -> None:
        self._model = model
        self._bounds = bounds
        self._ablates = method_for(model) == "ablation"
        #: seconds of a pass, a token; measured by the first row
        self._each = 0.0

    def fits(self, reading: AttributionInput) -> bool:
        tokens = len(reading.example)
        if tokens > self._bounds.tokens:
            return False
        self._each = self._each or self._measured(reading.example)
        # a row is read whole and without each of its words, or forward and back at each step
        passes = len(reading.words) + 1 if self._ablates else self._bounds.steps * _PASSES
        return passes * tokens * self._each <= self._bounds.seconds / _ANSWERS

    def _measured(self, example: EncodedExample) -> float:
        count = max(1, _TIMED_TOKENS // len(example))
        batch = pack([example] * count).to(self._model.backbone.device)
        with evaluating(self._model), torch.no_grad():
            began = time.perf_counter()
            float(self._model.hidden(batch).float().sum())
            return (time.perf_counter() - began) / batch.tokens
