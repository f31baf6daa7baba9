"""Tasks by instruction: an example's fields become a prompt, and the answer to it is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import join_predictions
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.fields import is_given, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Evaluation, Example, Head, HeadKind, TaskOptions
    from adapterhub.tasks.chat_template import Message
    from adapterhub.tasks.dialogue import AnswerScore
    from adapterhub.tasks.text_scores import TextScores


@dataclass(frozen=True, slots=True)
class Wording:
    """What tells one task by instruction from another.

    Args:
        name: of the task.
        pipeline_tag: the Hub's name of it.
        instruction: said to the backbone where a recipe says nothing else.
        long_field: the field that loses its end where an example is too long.
        text_field: the field that an example may have under ``text`` in prediction.
        prompt: makes the message to the backbone of instruction, example and its number.
        references: returns the right answers to an example, the one to learn first, of example and its
            number.
        score: scores texts by the right answers to each.
    """

    name: str
    pipeline_tag: str
    instruction: str
    long_field: str
    text_field: str
    prompt: Callable[[str, Example, int], str]
    references: Callable[[Example, int], list[str]]
    score: Callable[[Sequence[Sequence[str]], Sequence[str]], TextScores]


class Instructed:
    """A task that the backbone does when it is told to, and learns to do well.

    Training and prediction say the same to the backbone: an instruction and the example, through
    its chat template. Prompt and answer share ``max_length``; ``max_new_tokens`` of it are
    kept for the answer, and a text that is too long for the rest loses its end.
    """

    peft_task_type: str = "CAUSAL_LM"
    head: HeadKind = "causal_lm"
    labels: tuple[str, ...] = ()
    reads_windows: bool = False
    default_metric: tuple[str, bool] = ("loss", False)

    def __init__(
        self, wording: Wording, tokenizer: PreTrainedTokenizerBase, options: TaskOptions
    ) -> None:
        """Set up the task.

        Args:
            wording: what the task is.
            tokenizer: a fast one, with a chat template.
            options: settings from the recipe.

        Raises:
            RecipeError: when options and tokenizer do not fit together.
        """
        self.dialogue = Dialogue(tokenizer, options)
        if options.max_new_tokens >= options.max_length:
            raise RecipeError(
                f"{options.max_new_tokens} tokens for the answer leave no room for the prompt "
                f"in max_length {options.max_length}",
                place="task.max_new_tokens",
            )
        self.wording = wording
        self.name = wording.name
        self.pipeline_tag = wording.pipeline_tag
        self.tokenizer = tokenizer
        self.options = options
        self.instruction = options.instruction or wording.instruction
        #: tokens at which generation ends
        self.stop_ids = self.dialogue.stop_ids

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode one example; see ``Task.encode``. An example without an answer is an error.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        answer = self.wording.references(example, number)[0]
        exchange = {"prompt": self._prompt(example, number), "response": answer}
        return self.dialogue.encode(exchange, number, train=train)

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over the answers' tokens, a scalar."""
        return self.dialogue.loss(head, hidden, batch)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of answer tokens."""
        return self.dialogue.weight(batch)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[AnswerScore]:
        """Return how well each example's answer was foretold."""
        return self.dialogue.decode(head, hidden, batch)

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``loss``, ``perplexity`` and ``token_accuracy`` of the given answers.

        Texts are scored by ``score_texts``, once they are generated.

        Raises:
            DataError: when there are no examples.
        """
        return self.dialogue.evaluate(examples, decoded)

    def windows(self, example: Example) -> list[Example]:
        """Return the example itself: a long text is shortened by ``encode``."""
        return [example]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only answer."""
        return join_predictions(answers)

    def prediction(self, example: Example, decoded: AnswerScore) -> dict[str, Any]:
        """Return ``{"loss", "tokens", "correct"}`` of the example's own answer.

        Text is generated from ``question`` and read by ``text_of``.
        """
        return self.dialogue.prediction(example, decoded)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer to a conversation starts.

        Raises:
            DataError: when the last message is not the user's, or is too long by itself.
        """
        return self.dialogue.prompt_ids(messages)

    def question(self, example: Example, number: int) -> list[Message]:
        """Return what an example says to the backbone, for ``prompt_ids``; no answer is needed.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        return [{"role": "user", "content": self._prompt(example, number)}]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""
        return self.dialogue.text_of(ids)

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the right answers of their examples.

        Raises:
            DataError: when there are no texts, or an example has no answer.
        """
        references = [
            self.wording.references(example, at) for at, example in enumerate(examples, start=1)
        ]
        return self.wording.score(references, texts)

    def _prompt(self, example: Example, number: int) -> str:
        """Return the message that fits beside its answer."""
        field, asked = self.wording.long_field, self.wording.text_field
        if not is_given(example, asked) and is_given(example, "text"):
            example = {**example, asked: example["text"]}
        prompt = self.wording.prompt(self.instruction, example, number)
        excess = self._tokens(prompt) + self.options.max_new_tokens - self.options.max_length
        while excess > 0:
            example = {**example, field: self._shorter(example, excess, number)}
            prompt = self.wording.prompt(self.instruction, example, number)
            excess = self._tokens(prompt) + self.options.max_new_tokens - self.options.max_length
        return prompt

    def _shorter(self, example: Example, excess: int, number: int) -> str:
        """Return the long text without its last ``excess`` tokens."""
        text: str = example.get(self.wording.long_field) or ""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = encoding["offset_mapping"]
        shorter = text[: offsets[-excess][0]].rstrip() if excess < len(offsets) else ""
        if not shorter:
            raise DataError(
                f"what stands beside it leaves it no room in {self.options.max_length} tokens",
                place=place_of(number, self.wording.long_field),
                hint="Train with a larger task.max_length, or less of task.max_new_tokens",
            )
        return shorter

    def _tokens(self, prompt: str) -> int:
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if self.options.system_prompt:
            messages.insert(0, {"role": "system", "content": self.options.system_prompt})
        return len(self.dialogue.template.prompt_ids(messages))
