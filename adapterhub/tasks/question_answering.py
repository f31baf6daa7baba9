"""Extractive question answering: the span of a context that answers a question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.alignment import token_owners, untouched
from adapterhub.tasks.answers import normalized, placed_answers, reference_answers, squad_scores
from adapterhub.tasks.attribution import (
    AttributionInput,
    CheckedAnswer,
    Target,
    input_text,
    padded_owners,
    refuse_selection,
    span_log_odds,
)
from adapterhub.tasks.base import AuditSpec, Evaluation, Outcome
from adapterhub.tasks.context_windows import WindowEncoder
from adapterhub.tasks.fields import is_given, place_of, text_field
from adapterhub.tasks.predictions import (
    Confidence,
    ErrorExample,
    ExampleStatistics,
    ratio,
    window_groups,
)
from adapterhub.tasks.preprocessors import check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Head, HeadKind, Pool, TaskOptions
    from adapterhub.tasks.context_windows import ContextWindow
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array

#: Fewest tokens of a window: a question and a context of some words each.
MIN_LENGTH = 16
_NO_ANSWER = "(no answer)"


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """Likeliest answer in one window: its first and last token among those of the context.

    The probabilities are that it starts and ends there, and that no answer starts or ends in the
    window.
    """

    first: int
    last: int
    score: float
    no_answer: float


@dataclass(frozen=True, slots=True)
class _MergedAnswer:
    """Answer to one question over all windows of its context."""

    example: Example
    text: str
    score: float
    references: Sequence[str]

    @property
    def correct(self) -> bool:
        """Whether it equals a reference answer, as SQuAD compares them."""
        return normalized(self.text) in {normalized(text) for text in self.references or [""]}


class QuestionAnswering:
    """Examples have ``context``, ``question`` and ``answers``; see ``reference_answers``.

    The head gives two logits to every token of the context, for an answer that starts and one
    that ends there, and to a null token for no answer. A context longer than ``max_length`` is
    split into windows that share ``stride`` tokens, in training too; a window without the whole
    answer has no answer. With ``unanswerable`` a question may have an empty list of answers, and
    prediction may give none.
    """

    name: str = "question-answering"
    pipeline_tag: str = "question-answering"
    peft_task_type: str = "QUESTION_ANS"
    head: HeadKind = "span"
    labels: tuple[str, ...] = ("start", "end")
    reads_windows: bool = True
    default_metric: tuple[str, bool] = ("f1", True)
    audit: AuditSpec | None = AuditSpec("answers")
    generation: None = None
    transcription: None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TaskOptions,
        *,
        null: Pool,
    ) -> None:
        """Set up the task; ``null`` is the token of a window that represents no answer."""
        check_tokenizer(tokenizer, options.max_length)
        if options.max_length < MIN_LENGTH:
            raise RecipeError(
                f"{options.max_length} tokens leave no room for question and context",
                place="task.max_length",
                hint=f"Use {MIN_LENGTH} or more",
            )
        if options.class_weights is not None:
            raise RecipeError("answers have no class weights", place="task.class_weights")
        self.tokenizer = tokenizer
        self.options = options
        self.encoder = WindowEncoder(tokenizer, options, null)

    @property
    def attribution(self) -> AnswerAttribution:
        """Attribution of the answer to the words of question and context."""
        return AnswerAttribution(self)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode the window named by an example, or the first; see ``Task.encode``."""
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
        parts = head(hidden).float().cpu().split(batch.selected)
        return [
            _best(logits.log_softmax(dim=0), self.options.max_answer_tokens) for logits in parts
        ]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``exact_match`` and ``f1``, from 0 to 100; see ``squad_scores``."""
        merged = self._merged(examples, decoded)
        references = [each.references for each in merged]
        return Evaluation(metrics=squad_scores(references, [each.text for each in merged]))

    def windows(self, example: Example) -> list[Example]:
        """Return an example for each window of the context, numbered under ``window``."""
        count = len(self.encoder.windows(example, 1))
        return [{**example, "window": index} for index in range(max(count, 1))]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the likeliest of the answers in the windows of one example.

        With ``unanswerable`` there is none if every window is likelier to have none than the
        best is to have its answer; ``answer`` is then empty, ``start`` and ``end`` are 0.
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

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return the answer."""
        return prediction["answer"] or "(none)"

    def outcome(self, decoded: FoundSpan) -> Outcome:
        """Return the first and last token of the answer in its window."""
        return Outcome((decoded.first, decoded.last))

    def confidence(
        self, examples: Sequence[Example], decoded: Sequence[FoundSpan]
    ) -> Confidence | None:
        """Return the confidence of the answer to each question."""
        if not decoded:
            return None
        merged = self._merged(examples, decoded)
        predicted = np.array([each.score for each in merged], dtype=float)
        return Confidence("questions", predicted, np.array([each.correct for each in merged]))

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[FoundSpan]
    ) -> list[ErrorExample]:
        """Return the questions with a wrong answer."""
        return [
            ErrorExample(
                text=f"{each.example['question']} | {each.example['context']}",
                expected=" / ".join(dict.fromkeys(each.references)) or _NO_ANSWER,
                predicted=each.text or _NO_ANSWER,
                error=each.score,
                measure="probability of the answer",
            )
            for each in self._merged(examples, decoded)
            if not each.correct
        ]

    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: an answer is no label."""

    def statistics(
        self, examples: Sequence[Example], decoded: Sequence[FoundSpan]
    ) -> ExampleStatistics:
        """Return the scores of each question."""
        values = []
        for each in self._merged(examples, decoded):
            found = squad_scores([each.references], [each.text])
            answerable = float(bool(each.references))
            values.append(
                [found["exact_match"], found["f1"], 1.0, found["f1"] * answerable, answerable]
            )
        return ExampleStatistics(np.array(values, dtype=float), _answer_metrics, ("answers",))

    def window(self, example: Example, number: int) -> ContextWindow:
        """Return the window that an example names, or the first."""
        windows = self.encoder.windows(example, number)
        if not windows:
            raise DataError("the context gives no tokens", place=place_of(number, "context"))
        return windows[example.get("window", 0)]

    def _merged(
        self, examples: Sequence[Example], decoded: Sequence[FoundSpan]
    ) -> list[_MergedAnswer]:
        """Return the answer to each question, given the windows of all."""
        found = []
        for number, places in enumerate(window_groups(examples), start=1):
            answer = self.join([self.prediction(examples[at], decoded[at]) for at in places])
            first = examples[places[0]]
            references = [each.text for each in reference_answers(first, number)]
            found.append(_MergedAnswer(first, answer["answer"], float(answer["score"]), references))
        return found

    def _answers(self, example: Example, number: int) -> list[tuple[int, int]]:
        answers = placed_answers(example, number)
        if not answers and not self.options.unanswerable:
            raise DataError(
                "the question has no answer",
                place=place_of(number, "answers"),
                hint="Set task.unanswerable: true, or remove such examples",
            )
        return answers


@dataclass(frozen=True, slots=True)
class AnswerAttribution:
    """Attribution of an answer to the words of question and context; see ``AttributionSource``."""

    task: QuestionAnswering

    def windows(self, example: Example) -> Sequence[Example]:
        """Return the windows of the context, or the one that the example names."""
        return [example] if "window" in example else self.task.windows(example)

    def encode(self, window: Example) -> AttributionInput:
        """Encode a window; see ``AttributionSource``."""
        read = self.task.window(window, 1)
        encoded = self.task.encode({**window, "answers": None}, 1, train=False)
        tokenizer = self.task.tokenizer
        question = input_text(tokenizer, "question", read.question)
        context = input_text(tokenizer, "context", text_field(window, "context", 1))
        owners = token_owners(read.question_spans, question.words)
        inside = token_owners(read.spans, context.words)
        for position, owner in zip(read.positions, inside, strict=True):
            owners[position] = None if owner is None else owner + len(question.words)
        unread = untouched(read.question_spans, question.words)
        unread += untouched(read.spans, context.words)
        texts = [question, context]
        return AttributionInput(encoded, texts, padded_owners(owners, encoded), unread)

    def targets(
        self,
        windows: Sequence[Example],
        decoded: Sequence[FoundSpan],
        *,
        label: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> list[tuple[int, Target]]:
        """Return the likeliest answer of all windows; see ``AttributionSource``."""
        refuse_selection(self.task.name, label=label, span=span)
        pairs = zip(windows, decoded, strict=True)
        answers = [self.task.prediction(window, found) for window, found in pairs]
        merged = self.task.join(answers)
        places = range(len(windows))
        if not merged["answer"]:
            at = min(places, key=lambda each: float(answers[each]["no_answer"]))
            measure = partial(span_log_odds, first=0, last=0)
            quantity = "log-odds that no answer starts, plus that none ends"
            return [(at, Target(_NO_ANSWER, quantity, merged["score"], measure))]
        at = max(places, key=lambda each: float(answers[each]["score"]))
        # the head reads the null token first
        first, last = decoded[at].first + 1, decoded[at].last + 1
        target = Target(
            answer=merged["answer"],
            quantity="log-odds to start there, plus to end there",
            probability=merged["score"],
            measure=partial(span_log_odds, first=first, last=last),
            start=merged["start"],
            end=merged["end"],
        )
        return [(at, target)]

    def answers(self, place: int, example: Example, decoded: FoundSpan) -> Iterator[CheckedAnswer]:
        """Yield the answer of a window, if it has one; see ``AttributionSource``."""
        if decoded.no_answer > decoded.score:
            # most windows of a long context have no answer, and there is little to see in them
            return
        answer = normalized(self.task.prediction(example, decoded)["answer"])
        references = [each.text for each in reference_answers(example, 1)]
        right = answer in {normalized(text) for text in references}
        expected = references[0] if references else _NO_ANSWER
        yield CheckedAnswer(place, expected, right, decoded.score)


def _target(window: ContextWindow, answers: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the index in ``select`` of start and end of the first answer; 0 for none.

    Index 0 is the null token.
    """
    if not answers:
        return 0, 0
    start, end = answers[0]
    inside = [at for at, span in enumerate(window.spans) if span[1] > start and span[0] < end]
    if not inside or window.spans[0][0] > start or window.spans[-1][1] < end:
        return 0, 0
    return inside[0] + 1, inside[-1] + 1


def _best(logs: Tensor, longest: int) -> FoundSpan:
    """Return the likeliest span of at most ``longest`` tokens.

    Log-probabilities to start and to end are ``[1 + tokens, 2]``, the null token first.
    """
    start, end = logs[1:, 0], logs[1:, 1]
    # [tokens, tokens]; an end before its start, or too far behind it, is none
    scores = start.unsqueeze(1) + end.unsqueeze(0)
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(longest - 1)
    scores = scores.masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(scores.argmax()), len(end))
    return FoundSpan(
        first=first,
        last=last,
        score=float(scores[first, last].exp()),
        no_answer=float(logs[0].sum().exp()),
    )


def _answer_metrics(sums: Array) -> dict[str, Array]:
    exact, f1, examples, answerable_f1, answerable = np.moveaxis(sums, -1, 0)
    found = {"exact_match": exact / examples, "f1": f1 / examples}
    if (answerable < examples).any():
        found["answerable_f1"] = ratio(answerable_f1, answerable)
        found["unanswerable_f1"] = ratio(f1 - answerable_f1, examples - answerable)
    return found
