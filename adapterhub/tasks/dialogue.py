"""Dialogue and instruction tuning with the backbone's own chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

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
from adapterhub.tasks.chat_template import ChatTemplate
from adapterhub.tasks.conversations import (
    check_learnable,
    check_message,
    conversation,
    unlearned_messages,
    up_to_answer,
    without_oldest,
)
from adapterhub.tasks.fields import is_given
from adapterhub.tasks.generating import GeneratingTask, answer_error
from adapterhub.tasks.text_scores import chrf_scores
from adapterhub.tasks.words import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import HeadKind, TaskOptions
    from adapterhub.tasks.chat_template import Rendered
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.generating import AnswerScore
    from adapterhub.tasks.predictions import ErrorExample
    from adapterhub.tasks.text_scores import TextScores


class ConversationTask(GeneratingTask):
    """Base of tasks whose prompts are conversations in the backbone's own chat template."""

    peft_task_type: str = "CAUSAL_LM"
    head: HeadKind = "causal_lm"
    target_frame: None = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> None:
        """Set up the task with a fast tokenizer that has a chat template."""
        super().__init__(tokenizer, options)
        if (options.num_beams or 1) > 1:
            raise RecipeError(
                "beams are for backbones with an encoder and a decoder",
                place="task.num_beams",
                hint="Remove it, or use such a backbone",
            )
        self.template = ChatTemplate(tokenizer)
        self.stop_ids = self.template.stop_ids
        self.stop_strings = self.template.stop_strings

    @final
    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer to a conversation starts.

        The oldest turns are dropped until ``max_length`` tokens are left.
        """
        return self._fitted_prompt(messages)[1]

    def _fitted_prompt(self, messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
        """Return the messages that fit of a conversation, and their tokens."""
        left = [check_message(message, "messages") for message in messages]
        if not left or left[-1]["role"] not in ("user", "tool"):
            raise DataError(
                "the last message must be the user's, or the result of a tool", place="messages"
            )
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


class Dialogue(ConversationTask):
    """Examples have ``messages``, or ``prompt`` and ``response`` (and maybe ``input``, ``system``).

    Only the assistant's turns are learned, each with the token that ends it, and not those with
    ``"weight": 0`` or ``"train": false``; with ``learned_turns: last`` only the last one. ``tools``
    and calls of them are rendered by the chat template, or refused where it has none. A system
    message that the chat template adds is used in training and prediction alike. A conversation
    longer than ``max_length`` loses its oldest turns; a last turn that is still too long loses its
    end.
    """

    name: str = "dialogue"
    pipeline_tag: str = "text-generation"
    instruction: str = ""
    reads_fields: bool = False

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
        unlearned = unlearned_messages(example, number)
        if self.options.learned_turns == "last":
            answers = [
                at - len(messages) for at, m in enumerate(messages) if m["role"] == "assistant"
            ]
            unlearned = unlearned.union(answers[:-1])
        return self._encode_messages(messages, number, unlearned)

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
        *prompt, answer = up_to_answer(messages, number)
        if answer.get("tool_calls"):
            return prompt, self.template.answer_text([*prompt, answer], number)
        return prompt, answer["content"]

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
