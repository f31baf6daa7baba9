"""Extractive question answering: which part of a context answers a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional as F

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.answers import given_answers, placed_answers
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.context_windows import WindowEncoder
from adapterhub.tasks.fields import is_given, place_of, text_field
from adapterhub.tasks.limits import check_tokenizer
from adapterhub.tasks.squad_scores import squad_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Example, Head, HeadKind, TaskOptions
    from adapterhub.tasks.context_windows import ContextWindow

#: Fewest tokens of a window: a question and a context of some words each.
MIN_LENGTH = 16


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """The likeliest answer in one window.

    Args:
        first: index of its first token among those of the window's context.
        last: index of its last token.
        score: probability that it starts and ends there.
        no_answer: probability that no answer starts or ends in the window.
    """

    first: int
    last: int
    score: float
    no_answer: float


class QuestionAnswering:
    """Examples have ``context``, ``question`` and ``answers`` (see ``answers.given_answers``).

    The head gives every token of the context two logits, for an answer to start and to end
    there, and the same to a token that stands for no answer. A context longer than
    ``max_length`` is read in windows that share ``stride`` tokens, in training too; a window
    that does not hold the whole answer is one without an answer. With ``unanswerable`` a
    question may have an empty list of answers, and prediction may give none.
    """

    name: str = "question-answering"
    pipeline_tag: str = "question-answering"
    peft_task_type: str = "QUESTION_ANS"
    head: HeadKind = "span"
    labels: tuple[str, ...] = ("start", "end")
    reads_windows: bool = True
    default_metric: tuple[str, bool] = ("f1", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TaskOptions,
        *,
        null: Literal["first", "last"],
    ) -> None:
        """Set up the task.

        Args:
            tokenizer: a fast one.
            options: settings from the recipe.
            null: which token of a window stands for no answer.

        Raises:
            RecipeError: when options and tokenizer do not fit together.
        """
        check_tokenizer(tokenizer, options.max_length)
        if options.max_length < MIN_LENGTH:
            raise RecipeError(
                f"{options.max_length} tokens leave no room for question and context",
                place="task.max_length",
                hint=f"Use {MIN_LENGTH} or more",
            )
        if options.class_weights is not None:
            raise RecipeError("answers have no classes to weigh", place="task.class_weights")
        self.tokenizer = tokenizer
        self.options = options
        self.encoder = WindowEncoder(tokenizer, options, null)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode one window, the first where the example does not say which; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        window = self.window(example, number)
        targets: tuple[int, ...] = ()
        if train or is_given(example, "answers"):
            targets = _target(window, self._answers(example, number))
        return EncodedExample(
            number=number,
            input_ids=window.input_ids,
            select=(window.null, *window.positions),
            targets=targets,
            segment_ids=window.segment_ids,
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the mean of the cross entropies of start and end, summed over windows."""
        total = hidden.new_zeros((), dtype=torch.float32)
        parts = head(hidden).float().split(batch.selected)
        for logits, target in zip(parts, batch.targets.view(-1, 2), strict=True):
            smoothing = self.options.label_smoothing
            total = total + F.cross_entropy(logits.T, target, label_smoothing=smoothing)
        return total

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of windows."""
        return float(len(batch.numbers))

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[FoundSpan]:
        """Return the likeliest answer of each window."""
        chances = head(hidden).float().cpu().split(batch.selected)
        return [
            _best(logits.log_softmax(dim=0), self.options.max_answer_tokens) for logits in chances
        ]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``exact_match`` and ``f1``, from 0 to 100; see ``squad_scores``.

        Raises:
            DataError: when there are no examples, or an example has no answers.
        """
        references: list[list[str]] = []
        parts: list[list[dict[str, Any]]] = []
        for number, (example, span) in enumerate(zip(examples, decoded, strict=True), start=1):
            # the windows of an example follow each other, the first one first
            if not example.get("window"):
                references.append([answer.text for answer in given_answers(example, number)])
                parts.append([])
            parts[-1].append(self.prediction(example, span))
        found = [self.join(windows)["answer"] for windows in parts]
        return Evaluation(metrics=squad_scores(references, found))

    def windows(self, example: Example) -> list[Example]:
        """Return an example for each window of the context, numbered under ``window``.

        Raises:
            DataError: naming the field, when question or context is no text.
        """
        count = len(self.encoder.windows(example, 1))
        return [{**example, "window": index} for index in range(max(count, 1))]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the likeliest of the answers in the windows of one example.

        With ``unanswerable``, there is none where every window is likelier to hold none than
        the best is to hold its answer; ``answer`` is then empty, ``start`` and ``end`` are 0.

        Raises:
            ValueError: when there are no windows.
        """
        best = max(answers, key=lambda answer: float(answer["score"]))
        no_answer = min(float(answer["no_answer"]) for answer in answers)
        if self.options.unanswerable and no_answer > best["score"]:
            best = {"answer": "", "start": 0, "end": 0, "score": no_answer}
        return {**best, "no_answer": no_answer}

    def prediction(self, example: Example, decoded: FoundSpan) -> dict[str, Any]:
        """Return ``{"answer", "start", "end", "score", "no_answer"}`` for one window.

        Offsets count characters of the whole context; ``score`` and ``no_answer`` are
        probabilities. ``join`` decides between them.
        """
        spans = self.window(example, 1).spans
        start, end = spans[decoded.first][0], spans[decoded.last][1]
        return {
            "answer": text_field(example, "context", 1)[start:end],
            "start": start,
            "end": end,
            "score": decoded.score,
            "no_answer": decoded.no_answer,
        }

    def window(self, example: Example, number: int) -> ContextWindow:
        """Return what is read of an example: the window that it names, or the first.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        windows = self.encoder.windows(example, number)
        if not windows:
            raise DataError("the context gives no tokens", place=place_of(number, "context"))
        return windows[example.get("window", 0)]

    def _answers(self, example: Example, number: int) -> list[tuple[int, int]]:
        answers = placed_answers(example, number)
        if not answers and not self.options.unanswerable:
            raise DataError(
                "the question has no answer",
                place=place_of(number, "answers"),
                hint="Set task.unanswerable: true, or leave such examples out",
            )
        return answers


def _target(window: ContextWindow, answers: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return where in ``select`` the first answer starts and ends; 0 and 0 for none.

    The first of them is the token that stands for no answer.
    """
    if not answers:
        return 0, 0
    start, end = answers[0]
    inside = [at for at, span in enumerate(window.spans) if span[1] > start and span[0] < end]
    if not inside or window.spans[0][0] > start or window.spans[-1][1] < end:
        return 0, 0
    return inside[0] + 1, inside[-1] + 1


def _best(chances: Tensor, longest: int) -> FoundSpan:
    """Return the likeliest span of ``longest`` tokens at most.

    Args:
        chances: ``[1 + tokens, 2]``, logarithms of the probabilities to start and to end; the
            first example stands for no answer.
        longest: in tokens.
    """
    start, end = chances[1:, 0], chances[1:, 1]
    # [tokens, tokens]; an end before its start, or too far behind it, is none
    scores = start.unsqueeze(1) + end.unsqueeze(0)
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(longest - 1)
    scores = scores.masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(scores.argmax()), len(end))
    return FoundSpan(
        first=first,
        last=last,
        score=float(scores[first, last].exp()),
        no_answer=float(chances[0].sum().exp()),
    )
