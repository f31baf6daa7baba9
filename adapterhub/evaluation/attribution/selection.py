"""Choice of the answers to explain: a confident correct, a confident wrong, an uncertain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from adapterhub.tasks.attribution import CheckedAnswer
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.dialogue import AnswerScore
    from adapterhub.tasks.fields import Example

#: Answers of each kind that are tried until one is short enough.
_TRIED = 50


def judge(task: Task, examples: Sequence[Example], decoded: Sequence[Any]) -> list[CheckedAnswer]:
    """Return the predictions that can be explained; none for a task without attributions.

    Args:
        task: Task that made the predictions.
        examples: Examples with their answers, or the windows of examples.
        decoded: Raw prediction of each, as ``Task.decode`` returns it.
    """
    source = task.attribution
    if source is None:
        return []
    pairs = enumerate(zip(examples, decoded, strict=True))
    return [
        answer
        for place, (example, found) in pairs
        for answer in source.answers(place, example, found)
    ]


def choose(
    answers: Sequence[CheckedAnswer], fits: Callable[[CheckedAnswer], bool]
) -> dict[str, CheckedAnswer]:
    """Return answers by why they were chosen; fewer where there are none of a kind.

    Args:
        answers: of an adapter.
        fits: tells whether an answer is cheap enough to explain; asked of the first ones.
    """
    surest = sorted(answers, key=lambda each: -each.confidence)
    orders = {
        "wrong and sure": [each for each in surest if not each.right],
        "right and sure": [each for each in surest if each.right],
        "unsure": surest[::-1],
    }
    chosen: dict[str, CheckedAnswer] = {}
    for why, order in orders.items():
        left = (each for each in order[:_TRIED] if each not in chosen.values())
        found = next(filter(fits, left), None)
        if found is not None:
            chosen[why] = found
    return chosen


def by_loss(scores: Sequence[AnswerScore]) -> dict[str, Sequence[int]]:
    """Return the places of rows whose answers were foretold best and worst, the first ones first.

    Args:
        scores: of each row's own answer.
    """
    order = sorted(range(len(scores)), key=lambda at: scores[at].mean_loss)
    half = (len(order) + 1) // 2
    return {
        "foretold worst": order[half:][::-1][:_TRIED],
        "foretold best": order[:half][:_TRIED],
    }
