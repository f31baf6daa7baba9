"""Dialogue and instruction tuning over the backbone's own chat template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import Evaluation, join_predictions
from adapterhub.tasks.chat_template import ChatTemplate
from adapterhub.tasks.conversations import (
    check_learnable,
    check_message,
    conversation,
    split_answer,
    without_oldest,
)
from adapterhub.tasks.limits import check_tokenizer
from adapterhub.tasks.text_scores import chrf_scores
from adapterhub.tasks.token_loss import summed_cross_entropy, token_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Example, Head, HeadKind, TaskOptions
    from adapterhub.tasks.chat_template import Message, Rendered
    from adapterhub.tasks.text_scores import TextScores


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How well an example's answers were foretold, token by token.

    Args:
        loss: summed over the answers' tokens, in nats, without label smoothing.
        tokens: how many there are.
        correct: how many were the likeliest token at their place.
    """

    loss: float
    tokens: int
    correct: int


class Dialogue:
    """Examples have ``messages``, or ``prompt`` and ``response`` (and maybe ``input``, ``system``).

    Only the assistant's turns are learned, each with the token that ends it. Where a
    template writes a system message of its own, training and prediction both get it. A
    conversation longer than ``max_length`` loses its oldest turns; a last turn that is
    still too long loses its end.
    """

    name: str = "dialogue"
    pipeline_tag: str = "text-generation"
    peft_task_type: str = "CAUSAL_LM"
    head: HeadKind = "causal_lm"
    labels: tuple[str, ...] = ()
    reads_windows: bool = False
    default_metric: tuple[str, bool] = ("loss", False)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> None:
        """Set up the task.

        Args:
            tokenizer: a fast one, with a chat template.
            options: settings from the recipe.

        Raises:
            RecipeError: when options and tokenizer do not fit together.
        """
        check_tokenizer(tokenizer, options.max_length)
        if options.class_weights is not None:
            raise RecipeError("a dialogue has no classes to weigh", place="task.class_weights")
        self.tokenizer = tokenizer
        self.options = options
        self.template = ChatTemplate(tokenizer)
        #: tokens at which generation ends
        self.stop_ids = self.template.stop_ids

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode one example; see ``Task.encode``. An example without an answer is an error.

        Returns:
            ``None`` where the prompt alone is longer than ``max_length``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        messages = conversation(example, number, self.options.system_prompt)
        check_learnable(example, messages, number)
        rendered = self._fitted(messages, number)
        learned = [at for at in rendered.learned if 0 < at < self.options.max_length]
        if not learned:
            return None
        ids = rendered.input_ids
        return EncodedExample(
            number=number,
            # the last token to foretell is not read itself
            input_ids=ids[: learned[-1]],
            select=[at - 1 for at in learned],
            targets=[ids[at] for at in learned],
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over the answers' tokens, a scalar."""
        return summed_cross_entropy(head, hidden, batch.targets, self.options.label_smoothing)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of answer tokens."""
        return float(batch.targets.numel())

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[AnswerScore]:
        """Return the scores of each example's answers."""
        losses, hits = token_scores(head, hidden, batch.targets)
        parts = zip(losses.double().split(batch.selected), hits.split(batch.selected), strict=True)
        return [AnswerScore(float(loss.sum()), len(loss), int(hit.sum())) for loss, hit in parts]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``loss`` (nats a token of the answers), ``perplexity``, ``token_accuracy``.

        Raises:
            DataError: when there are no examples.
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

    def windows(self, example: Example) -> list[Example]:
        """Return the example itself: a conversation is shortened by ``encode``."""
        return [example]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only answer."""
        return join_predictions(answers)

    def prediction(self, example: Example, decoded: AnswerScore) -> dict[str, Any]:
        """Return ``{"loss", "tokens", "correct"}`` of the example's own answers.

        Text is generated from ``prompt_ids`` and read by ``text_of``.
        """
        tokens = max(decoded.tokens, 1)
        return {
            "loss": decoded.loss / tokens,
            "tokens": decoded.tokens,
            "correct": decoded.correct,
        }

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer to a conversation starts.

        The oldest turns are dropped until ``max_length`` tokens are left.

        Raises:
            DataError: when the last message is not the user's, or is too long by itself.
        """
        return self.fitted_prompt(messages)[1]

    def fitted_prompt(self, messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
        """Return the messages that are left of a conversation, and their tokens.

        Raises:
            DataError: see ``prompt_ids``.
        """
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

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Return the messages before an example's last answer, for ``prompt_ids``, and the answer.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        messages = conversation(example, number, self.options.system_prompt)
        check_learnable(example, messages, number)
        return split_answer(messages, number)

    def question(self, example: Example, number: int) -> list[Message]:
        """Return the messages before an example's last answer, for ``prompt_ids``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        return self.question_and_reference(example, number)[0]

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Return chrF (0 to 100) of generated answers against the last answers of examples.

        Raises:
            DataError: when there are no texts, or an example has no answer.
        """
        pairs = [
            self.question_and_reference(example, at) for at, example in enumerate(examples, start=1)
        ]
        return chrf_scores([[reference] for _, reference in pairs], texts)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def _fitted(self, messages: list[Message], number: int) -> Rendered:
        """Render the newest turns that fit into ``max_length``, one at least."""
        while True:
            rendered = self.template.render(messages, number)
            if len(rendered.input_ids) <= self.options.max_length:
                return rendered
            shorter = without_oldest(messages)
            if shorter is None or not any(m["role"] == "assistant" for m in shorter):
                return rendered
            messages = shorter
