"""Explain what an adapter says of a row: its label, its spans, its answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, did_you_mean
from adapterhub.evaluation.attribution.inputs import (
    encode_conversation,
    encode_for_attribution,
    instructed_dialogue,
    texts_of,
)
from adapterhub.evaluation.attribution.methods import STEPS, attribute, evaluating
from adapterhub.evaluation.attribution.results import explanation
from adapterhub.evaluation.attribution.selection import RANKED
from adapterhub.evaluation.attribution.targets import (
    Target,
    of_ends,
    of_label,
    of_own_label,
    of_tags,
    of_tokens,
)
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.token_classification import TokenClassification
from adapterhub.tasks.word_windows import words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.attribution.inputs import AttributionInput
    from adapterhub.evaluation.attribution.methods import AttributionMethod
    from adapterhub.evaluation.attribution.results import Explanation
    from adapterhub.tasks.base import Example, Task
    from adapterhub.tasks.chat_template import Message
    from adapterhub.tasks.token_classification import WordTags


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
    if isinstance(task, TokenClassification):
        asked = _spans(model, task, row, label, span)
    elif isinstance(task, QuestionAnswering):
        _refuse(label is not None or span is not None, task)
        asked = [_answer(model, task, row)]
    else:
        _refuse(span is not None, task)
        asked = [_label(model, task, row, label)]
    return [
        explanation(reading, target, attribute(model, reading, target, steps=steps, method=method))
        for reading, target in asked
    ]


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
    dialogue = instructed_dialogue(task)
    if dialogue is None:
        raise DataError("does not generate text", place=task.name)
    reading = encode_conversation(dialogue, messages, answer)
    tokens = list(reading.example.targets)
    quantity = f"log-probability of the answer's {len(tokens)} tokens, in nats"
    target = Target(answer, quantity, None, partial(of_tokens, tokens=tokens))
    return explanation(
        reading, target, attribute(model, reading, target, steps=steps, method=method)
    )


def _label(
    model: TaskModel, task: Task, row: Example, label: str | None
) -> tuple[AttributionInput, Target]:
    reading = encode_for_attribution(task, row)
    decoded = _decoded(model, task, reading)
    if isinstance(task, Ranking):
        chances = [1.0 - decoded, decoded]
    else:
        chances = [float(each) for each in decoded]
    labels = texts_of(task).labels
    if label is None:
        # of a candidate it is explained why it should please
        index = 1 if isinstance(task, Ranking) else chances.index(max(chances))
    elif label in labels:
        index = labels.index(label)
    else:
        raise DataError(
            f"there is no label {label!r}", place=task.name, hint=did_you_mean(label, labels)
        )
    own = isinstance(task, MultiLabelClassification)
    measure = partial(of_own_label if own else of_label, index=index)
    answer = RANKED[index] if isinstance(task, Ranking) else labels[index]
    return reading, Target(answer, "log-odds of the label", chances[index], measure)


def _spans(
    model: TaskModel,
    task: TokenClassification,
    row: Example,
    label: str | None,
    span: tuple[int, int] | None,
) -> list[tuple[AttributionInput, Target]]:
    asked: list[tuple[AttributionInput, Target]] = []
    seen: list[Mapping[str, Any]] = []
    for window in task.windows(row):
        reading = encode_for_attribution(task, window)
        tags: WordTags = _decoded(model, task, reading)
        found = task.prediction(window, tags)["spans"]
        seen += found
        asked += [
            (reading, _span_target(task, window, tags, each))
            for each in found
            if label in (None, each["label"])
            and (span is None or (each["start"] < span[1] and each["end"] > span[0]))
        ]
    if not asked:
        listed = "; ".join(f"{each['label']} {each['start']}:{each['end']}" for each in seen)
        raise DataError(
            "no such span was found" if seen else "no span was found",
            place=task.name,
            hint=f"Found: {listed}" if seen else "There is nothing to explain",
        )
    return asked


def _span_target(
    task: TokenClassification, window: Example, tags: WordTags, span: Mapping[str, Any]
) -> Target:
    words = [
        at
        for at, word in enumerate(words_of(window, 1)[: len(tags.labels)])
        if word.start >= span["start"] and word.end <= span["end"]
    ]
    return Target(
        answer=f"{span['label']}: {span['text']}",
        quantity="mean log-odds of the span's tags",
        probability=span["score"],
        measure=partial(of_tags, words=words, tags=[tags.labels[at] for at in words]),
        start=span["start"],
        end=span["end"],
    )


def _answer(
    model: TaskModel, task: QuestionAnswering, row: Example
) -> tuple[AttributionInput, Target]:
    # a row of a window stands for this window alone
    windows = [row] if "window" in row else task.windows(row)
    readings = [encode_for_attribution(task, window) for window in windows]
    spans = [_decoded(model, task, reading) for reading in readings]
    answers = [task.prediction(window, span) for window, span in zip(windows, spans, strict=True)]
    joined = task.join(answers)
    places = range(len(windows))
    if not joined["answer"]:
        at = min(places, key=lambda each: float(answers[each]["no_answer"]))
        measure = partial(of_ends, first=0, last=0)
        quantity = "log-odds that no answer starts, plus that none ends"
        return readings[at], Target("(no answer)", quantity, joined["score"], measure)
    at = max(places, key=lambda each: float(answers[each]["score"]))
    span = spans[at]
    # the first position that the head reads stands for no answer
    measure = partial(of_ends, first=span.first + 1, last=span.last + 1)
    return readings[at], Target(
        answer=joined["answer"],
        quantity="log-odds to start there, plus to end there",
        probability=joined["score"],
        measure=measure,
        start=joined["start"],
        end=joined["end"],
    )


def _decoded(model: TaskModel, task: Task, reading: AttributionInput) -> Any:
    """Return the raw prediction of one row."""
    batch = pack([reading.example]).to(model.backbone.device)
    with evaluating(model), torch.no_grad():
        (found,) = task.decode(model.head, model.hidden(batch), batch)
    return found


def _refuse(given: bool, task: Task) -> None:
    if given:
        raise DataError(
            f"{task.name} has no {'labels' if isinstance(task, QuestionAnswering) else 'spans'} "
            "to choose from",
            place=task.name,
            hint="Leave out --label and --span",
        )
