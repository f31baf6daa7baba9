"""Dialogue and instruction tuning with the backbone's own chat template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from adapterhub.data.field_mapping import answer_text, example_text
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.alignment import token_owners, untouched
from adapterhub.tasks.attribution import (
    AttributionInput,
    InputText,
    attribution_words,
    padded_owners,
)
from adapterhub.tasks.base import Evaluation, Outcome, UnsplitTask
from adapterhub.tasks.conversations import (
    ChatTemplate,
    check_learnable,
    check_message,
    conversation,
    split_answer,
    unlearned_messages,
    without_oldest,
)
from adapterhub.tasks.fields import is_given
from adapterhub.tasks.predictions import ErrorExample, ExampleStatistics, ratio
from adapterhub.tasks.preprocessors import check_tokenizer
from adapterhub.tasks.text_scores import chrf_scores
from adapterhub.tasks.token_loss import summed_cross_entropy, token_scores
from adapterhub.tasks.words import Word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import AuditSpec, Head, HeadKind, TaskOptions
    from adapterhub.tasks.conversations import Message, Rendered
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array
    from adapterhub.tasks.text_scores import TextScores


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Score of an example's reference answers under the model.

    Args:
        loss: Cross entropy summed over the answers' tokens, in nats, without label smoothing.
        tokens: Number of tokens.
        correct: Number of tokens that are the likeliest at their position.
    """

    loss: float
    tokens: int
    correct: int

    @property
    def mean_loss(self) -> float:
        """Cross entropy per token, in nats."""
        return self.loss / max(self.tokens, 1)


class GeneratingTask(UnsplitTask):
    """Base of tasks whose predictions are generated texts.

    Their raw predictions are scores of the reference answers; texts are generated and scored
    through ``generation``.
    """

    peft_task_type: str = "CAUSAL_LM"
    head: HeadKind = "causal_lm"
    labels: tuple[str, ...] = ()
    default_metric: tuple[str, bool] = ("loss", False)
    audit: AuditSpec | None = None
    attribution: None = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> None:
        """Set up the task with a fast tokenizer that has a chat template."""
        check_tokenizer(tokenizer, options.max_length)
        if options.class_weights is not None:
            raise RecipeError("generated texts have no class weights", place="task.class_weights")
        self.tokenizer = tokenizer
        self.options = options
        self.template = ChatTemplate(tokenizer)
        #: tokens that end generation
        self.stop_ids = self.template.stop_ids
        #: texts that end generation
        self.stop_strings = self.template.stop_strings

    @final
    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over the answers' tokens, a scalar."""
        return summed_cross_entropy(head, hidden, batch.targets, self.options.label_smoothing)

    @final
    def weight(self, batch: PackedBatch) -> float:
        """Return the number of answer tokens."""
        return float(batch.targets.numel())

    @final
    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[AnswerScore]:
        """Return the score of each example's answers."""
        losses, hits = token_scores(head, hidden, batch.targets)
        parts = zip(losses.double().split(batch.selected), hits.split(batch.selected), strict=True)
        return [AnswerScore(float(loss.sum()), len(loss), int(hit.sum())) for loss, hit in parts]

    @final
    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``loss`` (nats per token), ``perplexity`` and ``token_accuracy`` of the answers.

        Texts are scored by ``score_texts``, once they are generated.
        """
        tokens = sum(score.tokens for score in decoded)
        if not tokens:
            raise DataError("there are no answers to score")
        loss = sum(score.loss for score in decoded) / tokens
        return Evaluation(
            metrics={
                "loss": loss,
                "perplexity": math.exp(loss) if loss < 700 else math.inf,
                "token_accuracy": sum(score.correct for score in decoded) / tokens,
            }
        )

    @final
    def prediction(self, example: Example, decoded: AnswerScore) -> dict[str, Any]:
        """Return ``{"loss", "tokens", "correct"}`` of the example's own answers.

        Text is generated from ``messages`` and decoded by ``text_of``.
        """
        return {
            "loss": decoded.mean_loss,
            "tokens": decoded.tokens,
            "correct": decoded.correct,
        }

    @final
    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return a generated ``answer``."""
        return prediction["answer"] or "(none)"

    @final
    def outcome(self, decoded: AnswerScore) -> Outcome:
        """Return how many tokens of the answers are the likeliest."""
        return Outcome((decoded.correct,))

    @final
    def confidence(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a text is no choice."""

    @final
    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a text is no label."""

    @final
    def statistics(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> ExampleStatistics:
        """Return loss and number of tokens of each example."""
        values = [[score.loss, score.tokens, score.correct] for score in decoded]
        return ExampleStatistics(np.array(values, dtype=float), _token_metrics, ("tokens",))

    @final
    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer to a conversation starts.

        The oldest turns are dropped until ``max_length`` tokens are left.
        """
        return self._fitted_prompt(messages)[1]

    def _fitted_prompt(self, messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
        """Return the messages that fit of a conversation, and their tokens."""
        left = [check_message(message, "messages") for message in messages]
        if not left or left[-1]["role"] != "user":
            raise DataError("the last message must be the user's", place="messages")
        if self.options.system_prompt and left[0]["role"] != "system":
            left.insert(0, {"role": "system", "content": self.options.system_prompt})
        while True:
            ids = self.template.prompt_ids(left)
            if len(ids) <= self.options.max_length:
                return left, ids
            shorter = without_oldest(left)
            if shorter is None:
                raise DataError(
                    f"the last message takes {len(ids)} tokens, "
                    f"the limit is {self.options.max_length}",
                    place="messages",
                    hint="Shorten it, or train with a larger task.max_length",
                )
            left = shorter

    @final
    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        for stop in self.stop_strings:
            text = text.partition(stop)[0]
        return text.strip()

    @final
    def attribution_input(self, messages: Sequence[Message], answer: str) -> AttributionInput:
        """Return a conversation and its answer; see ``TextGeneration.attribution_input``."""
        left, prompt = self._fitted_prompt(messages)
        ids: list[int] = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not ids:
            raise DataError("the answer is empty, so there is nothing to explain")
        rendered = self.template.text(left, prompt=True)
        offsets = self.tokenizer(
            rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        texts, placed = self._placed_messages(left, rendered)
        encoded = EncodedExample(
            number=1,
            # the answer's last token is a target and no input
            input_ids=[*prompt, *ids[:-1]],
            select=range(len(prompt) - 1, len(prompt) + len(ids) - 1),
            targets=ids,
        )
        owners = padded_owners(token_owners(offsets, placed), encoded)
        return AttributionInput(encoded, texts, owners, untouched(offsets, placed))

    def _placed_messages(
        self, messages: Sequence[Message], rendered: str
    ) -> tuple[list[InputText], list[Word]]:
        """Return the messages as texts, and their words with offsets in the rendered prompt."""
        texts: list[InputText] = []
        placed: list[Word] = []
        end = 0
        for message in messages:
            # templates strip the spaces around a message
            content = message["content"].strip()
            start = rendered.find(content, end)
            if start < 0:
                raise DataError(
                    "the chat template changes the messages, so their words can't be located"
                )
            words = attribution_words(self.tokenizer, content)
            texts.append(InputText(message["role"], content, words))
            placed += [Word(each.text, start + each.start, start + each.end) for each in words]
            end = start + len(content)
        return texts, placed

    def _encode_messages(
        self, messages: list[Message], number: int, unlearned: frozenset[int] = frozenset()
    ) -> EncodedExample | None:
        """Encode a conversation; ``None`` where its prompt alone is longer than ``max_length``."""
        rendered = self._fitted(messages, number, unlearned)
        pairs = [
            (at, target)
            for at, target in zip(rendered.learned, rendered.targets, strict=True)
            if 0 < at < self.options.max_length
        ]
        if not pairs:
            return None
        return EncodedExample(
            number=number,
            # the last target is not an input
            input_ids=rendered.input_ids[: pairs[-1][0]],
            select=[at - 1 for at, _ in pairs],
            targets=[target for _, target in pairs],
            truncated=len(pairs) < len(rendered.learned),
        )

    def _fitted(self, messages: list[Message], number: int, unlearned: frozenset[int]) -> Rendered:
        """Render the newest turns that fit into ``max_length``, one at least."""
        while True:
            rendered = self.template.render(messages, number, unlearned)
            if len(rendered.input_ids) <= self.options.max_length:
                return rendered
            shorter = without_oldest(messages)
            if shorter is None or not any(m["role"] == "assistant" for m in shorter):
                return rendered
            messages = shorter


class Dialogue(GeneratingTask):
    """Examples have ``messages``, or ``prompt`` and ``response`` (and maybe ``input``, ``system``).

    Only the assistant's turns are learned, each with the token that ends it, and not those with
    ``"weight": 0`` or ``"train": false``. A system message that the chat template adds is used in
    training and prediction alike. A conversation longer than ``max_length`` loses its oldest turns;
    a last turn that is still too long loses its end.
    """

    name: str = "dialogue"
    pipeline_tag: str = "text-generation"
    instruction: str = ""

    @property
    def generation(self) -> Dialogue:
        """This task."""
        return self

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode an example with its answer, which is required; see ``Task.encode``.

        Returns:
            ``None`` where the prompt alone is longer than ``max_length``.
        """
        messages = conversation(example, number, self.options.system_prompt)
        check_learnable(example, messages, number)
        return self._encode_messages(messages, number, unlearned_messages(example, number))

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> list[ErrorExample]:
        """Return all examples, with the loss of their answers."""
        pairs = zip(examples, decoded, strict=True)
        return [answer_error(example_text(e), answer_text(e), score) for e, score in pairs]

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Return the messages before the last answer of an example, and that answer."""
        messages = conversation(example, number, self.options.system_prompt)
        check_learnable(example, messages, number)
        return split_answer(messages, number)

    def messages(self, example: Example, number: int) -> list[Message]:
        """Return the messages of an example, which may have ``text`` instead of ``prompt``."""
        if not any(is_given(example, field) for field in ("messages", "prompt")):
            example = {**example, "prompt": example.get("text")}
        return conversation(example, number, self.options.system_prompt)

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Return chrF (0 to 100) of generated answers against the last answers of the examples."""
        pairs = [
            self.question_and_reference(example, at) for at, example in enumerate(examples, start=1)
        ]
        return chrf_scores([[reference] for _, reference in pairs], texts)


def answer_error(question: str, reference: str, score: AnswerScore) -> ErrorExample:
    """Return the mean loss of a reference answer as an error."""
    return ErrorExample(question, reference, "", score.mean_loss, "cross entropy, nats per token")


def _token_metrics(sums: Array) -> dict[str, Array]:
    loss, tokens, correct = np.moveaxis(sums, -1, 0)
    mean = ratio(loss, tokens)
    return {
        "loss": mean,
        "perplexity": np.exp(np.minimum(mean, 700.0)),
        "token_accuracy": ratio(correct, tokens),
    }
