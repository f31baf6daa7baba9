"""Explain what an adapter says of a row: its label, its spans, its answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.methods import STEPS, attribute, evaluating
from adapterhub.evaluation.attribution.results import explanation
from adapterhub.tasks.attribution import Target, tokens_log_probability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.attribution.methods import AttributionMethod
    from adapterhub.evaluation.attribution.results import Explanation
    from adapterhub.tasks.attribution import AttributionInput, AttributionSource
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example


def explain(
    model: TaskModel,
    task: Task,
    row: Example,
    *,
    label: str | None = None,
    span: tuple[int, int] | None = None,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
) -> list[Explanation]:
    """Explain what an adapter with a head of its own says of a row.

    Args:
        model: with its adapter active.
        task: that the adapter was trained for.
        row: with the task's fields; the right answer is not needed.
        label: explain this one instead of the one said; of spans, those of this type alone.
        span: explain the found spans that share a character with this one alone.
        steps: points of the path; see ``attribute``.
        method: of attribution; see ``attribute``.

    Returns:
        One for a label or an answer; one for each span found, in the order of the text.

    Raises:
        DataError: when the row can't be used, or nothing of the kind was said.
        MissingExtraError: when Captum isn't installed.
    """
    source = task.attribution
    if source is None:
        raise DataError(
            f"the answers of {task.name} can't be explained",
            hint="Explained are labels, relations, rankings, spans, and answers in text",
        )
    windows = source.windows(row)
    inputs = [read_example(source, window, task.name) for window in windows]
    decoded = [_decoded(model, task, each) for each in inputs]
    return [
        explanation(
            inputs[at], target, attribute(model, inputs[at], target, steps=steps, method=method)
        )
        for at, target in source.targets(windows, decoded, label=label, span=span)
    ]


def read_example(source: AttributionSource, window: Example, task: str) -> AttributionInput:
    """Encode an example with the word of each token.

    Raises:
        DataError: when the example is invalid or has no words.
    """
    found = source.encode(window)
    if not any(owner is not None for owner in found.owners):
        raise DataError("there is no word in it to explain the answer by", place=task)
    return found


def explain_text(
    model: TaskModel,
    task: Task,
    messages: Sequence[Message],
    answer: str,
    *,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
) -> Explanation:
    """Explain by the words of a conversation how likely an answer to it was.

    Args:
        model: with its adapter active.
        task: that the adapter was trained for, one that generates.
        messages: that it was asked.
        answer: that it generated, or another one.
        steps: points of the path; see ``attribute``.
        method: of attribution; see ``attribute``.

    Raises:
        DataError: when the task does not generate, or the messages can't be used.
        MissingExtraError: when Captum isn't installed.
    """
    if task.generation is None:
        raise DataError("does not generate text", place=task.name)
    reading = task.generation.attribution_input(messages, answer)
    tokens = list(reading.example.targets)
    quantity = f"log-probability of the answer's {len(tokens)} tokens, in nats"
    target = Target(answer, quantity, None, partial(tokens_log_probability, tokens=tokens))
    return explanation(
        reading, target, attribute(model, reading, target, steps=steps, method=method)
    )


def _decoded(model: TaskModel, task: Task, reading: AttributionInput) -> Any:
    """Return the raw prediction of one row."""
    batch = pack([reading.example]).to(model.backbone.device)
    with evaluating(model), torch.no_grad():
        (found,) = task.decode(model.head, model.hidden(batch), batch)
    return found
