"""A backbone's chat template: rendering conversations and finding what to learn in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

#: A message: ``role`` is ``system``, ``user`` or ``assistant``; ``content`` is text.
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens.

    Args:
        input_ids: of the whole conversation, up to the last learned token.
        learned: indices of the tokens that the assistant says: its texts, each with the
            token that ends its turn.
    """

    input_ids: list[int]
    learned: list[int]


class ChatTemplate:
    """Renders by the tokenizer's own template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Wrap a tokenizer.

        Raises:
            RecipeError: when it has no chat template.
        """
        if not tokenizer.chat_template:
            raise RecipeError(
                "the backbone has no chat template",
                place="backbone.name",
                hint="Use an instruction-tuned backbone for dialogue",
            )
        self.tokenizer = tokenizer
        self._special = frozenset(
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self.stop_ids = self._stop_ids()

    def text(self, messages: Sequence[Message], *, prompt: bool, number: int = 1) -> str:
        """Render messages as text.

        Args:
            messages: at least one.
            prompt: end with what opens the assistant's next turn.
            number: of the example, for errors.

        Raises:
            DataError: when the template refuses the messages.
        """
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        except TemplateError as error:
            raise DataError(
                f"the chat template refuses the conversation: {error}", place=f"example {number}"
            ) from error
        return rendered

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the assistant's answer starts.

        Raises:
            DataError: when the template refuses the messages.
        """
        return self._encode(self.text(messages, prompt=True))

    def render(self, messages: Sequence[Message], number: int) -> Rendered:
        """Tokenize a conversation and find the assistant's tokens in it.

        The conversation is rendered turn by turn, each rendering being the start of the
        next: what a turn of the assistant adds after the opening of its turn is learned. An
        answer to nothing (the first message) is not.

        Raises:
            DataError: when the template refuses the messages.
            RecipeError: when the template changes earlier text as a conversation goes on,
                so that what a turn adds can't be told.
        """
        text = self.text(messages, prompt=False, number=number)
        turns = [
            self._turn(messages, index, text, number)
            for index, message in enumerate(messages)
            if index and message["role"] == "assistant"
        ]
        ids, places = self._cut_at([at for turn in turns for at in turn], text)
        learned: list[int] = []
        for start, end in zip(places[::2], places[1::2], strict=True):
            learned += self._up_to_end(range(start, end), ids)
        return Rendered(ids[: learned[-1] + 1] if learned else ids, learned)

    def _turn(
        self, messages: Sequence[Message], index: int, text: str, number: int
    ) -> tuple[int, int]:
        """Return start and end, in characters, of what one turn adds to its prompt."""
        before = self.text(messages[:index], prompt=True, number=number)
        after = self.text(messages[: index + 1], prompt=False, number=number)
        if not (after.startswith(before) and text.startswith(after)):
            raise RecipeError(
                "the chat template rewrites earlier turns, so answers can't be told from prompts",
                place="backbone.name",
                hint="Give examples with one answer each, or use another backbone",
            )
        return len(before), len(after)

    def _cut_at(self, cuts: Sequence[int], text: str) -> tuple[list[int], list[int]]:
        """Tokenize a text; return its tokens, and how many of them come before each cut.

        A token may reach over a cut, as where a prompt ends in a space that the tokenizer
        joins to the answer. Then the text is tokenized in pieces, for the prompt must be
        the very tokens that an answer is generated from.
        """
        whole = self._encode(text)
        pieces = [
            self._encode(text[start:end])
            for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        ]
        joined = list(chain.from_iterable(pieces))
        if joined != whole:
            # some tokenizers mark the start of any text, and differ there without harm
            before = [self._encode(text[:cut]) for cut in cuts]
            if all(whole[: len(part)] == part for part in before):
                return whole, [len(part) for part in before]
        return joined, list(accumulate(len(piece) for piece in pieces[:-1]))

    def _up_to_end(self, turn: range, ids: Sequence[int]) -> range:
        """Return a turn up to the token that ends it, without the line end behind that."""
        ends = [at for at in turn if ids[at] in self._special]
        return range(turn.start, ends[-1] + 1) if ends else turn

    def _encode(self, text: str) -> list[int]:
        # the template has written the special tokens already
        encoding = self.tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoding["input_ids"]
        return ids

    def _stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer: end of sequence, and end of turn."""
        sample = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        last = self.render(sample, 1).input_ids[-1]
        stops = {self.tokenizer.eos_token_id, last if last in self._special else None}
        return frozenset(stop for stop in stops if stop is not None)
