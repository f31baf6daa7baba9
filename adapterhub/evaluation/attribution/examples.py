"""Selection and explanation of a few answers of an evaluation, within a compute budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.budget import DEFAULT_BUDGET, AttributionBudget
from adapterhub.evaluation.attribution.explain import (
    LARGE_GAP,
    attribution_input,
    explain,
    explain_text,
)
from adapterhub.evaluation.attribution.methods import eval_mode, method_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.attribution.explain import Explanation
    from adapterhub.tasks.attribution import AttributionInput, CheckedAnswer
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.generating import AnswerScore

#: Maximum number of explained answers; see ``select_answers``.
_ANSWERS = 3
#: Candidates of each kind that are tried until one fits the budget.
_TRIED = 50
#: Cost of an integration step in forward passes: one forward, and one backward that takes two.
_STEP_PASSES = 3
#: Maximum number of characters of an explained generated answer.
_ANSWER_CHARACTERS = 160
#: Number of tokens of the timed forward pass.
_TIMED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class ExplainedExample:
    """An answer with its explanation."""

    why: str
    expected: str
    found: Explanation


def explain_examples(
    model: TaskModel,
    task: Task,
    examples: Sequence[Example],
    decoded: Sequence[Any],
    budget: AttributionBudget = DEFAULT_BUDGET,
) -> list[ExplainedExample]:
    """Explain one answer of each kind of ``select_answers`` or ``rank_by_loss``.

    Returns:
        The explained answers; none for a task without attributions, or where no example fits.
    """
    if not examples:
        return []
    if task.generation is not None:
        return list(_explain_texts(model, task, task.generation, examples, decoded, budget))
    answers = checked_answers(task, examples, decoded)
    source = task.attribution
    if not answers or source is None:
        return []
    cost = _Cost(model, budget)

    def fits(answer: CheckedAnswer) -> bool:
        try:
            return cost.fits(attribution_input(source, examples[answer.place], task.name))
        except DataError:
            return False

    return [
        ExplainedExample(
            why, answer.expected, _explain(model, task, examples[answer.place], answer, budget)
        )
        for why, answer in select_answers(answers, fits).items()
    ]


def checked_answers(
    task: Task, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[CheckedAnswer]:
    """Return the predictions that can be explained, compared with the reference answers."""
    source = task.attribution
    if source is None:
        return []
    pairs = enumerate(zip(examples, decoded, strict=True))
    return [
        answer
        for place, (example, found) in pairs
        for answer in source.answers(place, example, found)
    ]


def select_answers(
    answers: Sequence[CheckedAnswer], fits: Callable[[CheckedAnswer], bool]
) -> dict[str, CheckedAnswer]:
    """Select a confident error, a confident correct answer and an uncertain one, by reason."""
    by_confidence = sorted(answers, key=lambda answer: -answer.confidence)
    candidates = {
        "confident error": [answer for answer in by_confidence if not answer.right],
        "confident and correct": [answer for answer in by_confidence if answer.right],
        "uncertain": by_confidence[::-1],
    }
    selected: dict[str, CheckedAnswer] = {}
    for why, ordered in candidates.items():
        left = (answer for answer in ordered[:_TRIED] if answer not in selected.values())
        found = next(filter(fits, left), None)
        if found is not None:
            selected[why] = found
    return selected


def rank_by_loss(scores: Sequence[AnswerScore]) -> dict[str, Sequence[int]]:
    """Return the positions of the examples with the highest and with the lowest loss, in order."""
    order = sorted(range(len(scores)), key=lambda at: scores[at].mean_loss)
    half = (len(order) + 1) // 2
    return {
        "highest loss": order[half:][::-1][:_TRIED],
        "lowest loss": order[:half][:_TRIED],
    }


def _explain(
    model: TaskModel,
    task: Task,
    example: Example,
    answer: CheckedAnswer,
    budget: AttributionBudget,
) -> Explanation:
    """Explain an answer with half of the steps, and with all of them if the gap is large."""
    for steps in (budget.steps // 2, budget.steps):
        (found, *_) = explain(
            model, task, example, label=answer.label, span=answer.span, steps=steps
        )
        if found.gap_share <= LARGE_GAP:
            break
    return found


def _explain_texts(
    model: TaskModel,
    task: Task,
    generation: TextGeneration,
    examples: Sequence[Example],
    decoded: Sequence[Any],
    budget: AttributionBudget,
) -> Iterator[ExplainedExample]:
    """Explain the beginnings of the reference answers with the highest and the lowest loss."""
    cost = _Cost(model, budget)
    for why, places in rank_by_loss(decoded).items():
        for place in places:
            messages, answer = _conversation(generation, examples[place], place + 1)
            try:
                inputs = generation.attribution_input(messages, answer)
            except DataError:
                continue
            if inputs.words and cost.fits(inputs):
                found = explain_text(model, task, messages, answer, steps=budget.steps)
                yield ExplainedExample(why, found.answer, found)
                break


def _conversation(task: TextGeneration, example: Example, number: int) -> tuple[list[Message], str]:
    """Return the messages of an example, and the beginning of its reference answer."""
    messages, answer = task.question_and_reference(example, number)
    if len(answer) > _ANSWER_CHARACTERS:
        beginning = answer[:_ANSWER_CHARACTERS]
        answer = beginning.rpartition(" ")[0] or beginning
    return messages, answer


class _Cost:
    """Estimates whether an example can be explained within its share of the time budget."""

    def __init__(self, model: TaskModel, budget: AttributionBudget) -> None:
        self._model = model
        self._budget = budget
        self._ablation = method_for(model) == "ablation"
        # measured by the first example
        self._seconds_per_token = 0.0

    def fits(self, inputs: AttributionInput) -> bool:
        tokens = len(inputs.example)
        if inputs.without is None and tokens > self._budget.tokens:
            return False
        self._seconds_per_token = self._seconds_per_token or self._measure(inputs.example)
        ablation = self._ablation or inputs.without is not None
        passes = len(inputs.words) + 1 if ablation else self._budget.steps * _STEP_PASSES
        return passes * tokens * self._seconds_per_token <= self._budget.seconds / _ANSWERS

    def _measure(self, example: EncodedExample) -> float:
        """Return the seconds per token of a forward pass."""
        count = max(1, _TIMED_TOKENS // len(example))
        batch = pack([example] * count).to(self._model.backbone.device)
        with eval_mode(self._model), torch.no_grad():
            start = time.perf_counter()
            float(self._model.hidden(batch).float().sum())
            return (time.perf_counter() - start) / batch.tokens
