"""Conversations: messages of an example, and their tokens by the backbone's chat template."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.fields import Example

ROLES = ("system", "user", "assistant")

#: A message: ``role`` is ``system``, ``user`` or ``assistant``; ``content`` is text.
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens, and the indices of the assistant's texts with the ends of turns."""

    input_ids: list[int]
    learned: list[int]


class ChatTemplate:
    """Renders conversations with the tokenizer's own template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Find the special tokens and stop tokens of a tokenizer.

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
        """Render messages as text, for a ``prompt`` up to the opening of the next answer."""
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        except TemplateError as error:
            raise DataError(
                f"the chat template rejects the conversation: {error}", place=f"example {number}"
            ) from error
        return rendered

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the assistant's answer starts."""
        return self._encode(self.text(messages, prompt=True))

    def render(self, messages: Sequence[Message], number: int) -> Rendered:
        """Tokenize a conversation and find the assistant's tokens in it.

        The conversation is rendered turn by turn, each rendering a prefix of the next: what a
        turn of the assistant adds after the opening of its turn is learned. A first message of
        the assistant is not.

        Raises:
            DataError: when the template rejects the messages.
            RecipeError: when the template changes earlier text as a conversation goes on, so
                that turns can't be separated.
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
                "the chat template rewrites earlier turns, so they can't be separated from answers",
                place="backbone.name",
                hint="Give examples with one answer each, or use another backbone",
            )
        return len(before), len(after)

    def _cut_at(self, cuts: Sequence[int], text: str) -> tuple[list[int], list[int]]:
        """Tokenize a text; return its tokens, and the number of tokens before each cut.

        A token may span a cut, as where a prompt ends in a space that the tokenizer joins to
        the answer. Then the parts are tokenized separately, because the prompt must have the
        same tokens that an answer is generated from.
        """
        whole = self._encode(text)
        parts = [
            self._encode(text[start:end])
            for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        ]
        joined = list(chain.from_iterable(parts))
        if joined != whole:
            # some tokenizers mark the start of any text, a harmless difference
            before = [self._encode(text[:cut]) for cut in cuts]
            if all(whole[: len(part)] == part for part in before):
                return whole, [len(part) for part in before]
        return joined, list(accumulate(len(part) for part in parts[:-1]))

    def _up_to_end(self, turn: range, ids: Sequence[int]) -> range:
        """Return a turn up to the token that ends it, without the line end after that."""
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


def conversation(example: Example, number: int, system_prompt: str) -> list[Message]:
    """Return the messages of an example.

    They are its ``messages``; or the user's ``prompt``, with ``input`` below it, and the
    assistant's ``response``, after the ``system`` message; all but the prompt are optional.

    Args:
        example: Example with ``messages`` or ``prompt``, not both.
        number: Number of the example, for errors.
        system_prompt: First message of an example without a system message; empty for none.

    Raises:
        DataError: naming example and field, when the example can't be used.
    """
    if is_given(example, "messages") and is_given(example, "prompt"):
        raise DataError(
            "the example has both messages and prompt", place=place_of(number, "messages")
        )
    if is_given(example, "messages"):
        items = list_field(example, "messages", number)
        messages = [check_message(item, place_of(number, "messages")) for item in items]
    else:
        messages = _exchange(example, number)
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def check_message(item: Any, place: str) -> Message:
    """Return a message with nothing but role and content."""
    if not isinstance(item, dict):
        raise DataError(
            f"a message must be an object with role and content, not {item!r}", place=place
        )
    for key in ("role", "content"):
        if not isinstance(item.get(key), str) or not item[key].strip():
            hint = "" if key in item else did_you_mean(key, map(str, item))
            raise DataError(f"a message has no text under {key!r}", place=place, hint=hint)
    if item["role"] not in ROLES:
        raise DataError(
            f"{item['role']!r} is not a role", place=place, hint=did_you_mean(item["role"], ROLES)
        )
    return {"role": item["role"], "content": item["content"]}


def split_answer(messages: Sequence[Message], number: int) -> tuple[list[Message], str]:
    """Return the messages before the last answer, and that answer; there must be one."""
    for index in range(len(messages) - 1, 0, -1):
        if messages[index]["role"] == "assistant":
            return list(messages[:index]), messages[index]["content"]
    raise DataError("the conversation has no answer of the assistant", place=f"example {number}")


def without_oldest(messages: Sequence[Message]) -> list[Message] | None:
    """Return the conversation without its oldest turn; ``None`` where only one is left.

    A turn is a message of the user and all up to the next one. A system message stays.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    for index in range(first + 1, len(messages)):
        if messages[index]["role"] == "user":
            return [*messages[:first], *messages[index:]]
    return None


def _exchange(example: Example, number: int) -> list[Message]:
    prompt = text_field(example, "prompt", number)
    extra = example.get("input")
    if extra is not None and not isinstance(extra, str):
        raise DataError("the value must be text", place=place_of(number, "input"))
    if extra and extra.strip():
        prompt = f"{prompt}\n\n{extra}"
    messages = [{"role": "user", "content": prompt}]
    if is_given(example, "system"):
        messages.insert(0, {"role": "system", "content": text_field(example, "system", number)})
    if is_given(example, "response"):
        messages.append({"role": "assistant", "content": text_field(example, "response", number)})
    return messages


def check_learnable(example: Example, messages: Sequence[Message], number: int) -> None:
    """Require an answer to learn from."""
    if not is_given(example, "messages"):
        required(example, "response", number)
    elif not any(message["role"] == "assistant" for message in messages):
        raise DataError(
            "the conversation has no message of the assistant", place=place_of(number, "messages")
        )
