"""Conversations: messages of an example, and their tokens by the backbone's chat template."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.fields import Example

ROLES = ("system", "user", "assistant")

#: A message: ``role`` is ``system``, ``user`` or ``assistant``; ``content`` is text.
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens, and what is learned from it: the assistant's texts and their ends.

    Args:
        input_ids: Tokens of the conversation.
        learned: Position of each learned token, ascending; one past the last token of a turn that
            the template does not end.
        targets: Token to predict at each of ``learned``, from all tokens before it.
    """

    input_ids: list[int]
    learned: list[int]
    targets: list[int]


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
        #: text with which the template ends an answer; empty where one token does
        self.closing = ""
        self._end = self._end_of_turn()
        #: tokens that end an answer: end of sequence, and end of turn
        self.stop_ids = frozenset(
            token for token in (tokenizer.eos_token_id, self._end) if token is not None
        )
        if not self.stop_ids:
            raise RecipeError(
                "neither the chat template nor the tokenizer has a token that ends an answer",
                place="backbone.name",
                hint="Set eos_token in the tokenizer, or use another backbone",
            )

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

    def render(
        self, messages: Sequence[Message], number: int, unlearned: Collection[int] = ()
    ) -> Rendered:
        """Tokenize a conversation and find the assistant's tokens in it.

        The conversation is rendered turn by turn, each rendering a prefix of the next: what a
        turn of the assistant adds after the opening of its turn is learned. A first message of
        the assistant is not. Where the template does not end a turn by a token of its own, the end
        of sequence is learned after it, so that answers end.

        Args:
            unlearned: Messages of the assistant that are not learned, counted from the end (-1).

        Raises:
            DataError: when the template rejects the messages.
            RecipeError: when the template changes earlier text as a conversation goes on, so
                that turns can't be separated.
        """
        text = self.text(messages, prompt=False, number=number)
        turns = [
            self._turn(messages, index, text, number)
            for index, message in enumerate(messages)
            if index and message["role"] == "assistant" and index - len(messages) not in unlearned
        ]
        ids, places = self._cut_at([at for turn in turns for at in turn], text)
        learned: list[int] = []
        targets: list[int] = []
        for start, end in zip(places[::2], places[1::2], strict=True):
            turn = self._up_to_end(range(start, end), ids)
            learned += turn
            targets += [ids[at] for at in turn]
            if turn and targets[-1] not in self.stop_ids:
                learned.append(turn.stop)
                targets.append(self._added_end())
        return Rendered(ids[: learned[-1] + 1] if learned else ids, learned, targets)

    def _added_end(self) -> int:
        """Return the token that ends a turn where the template has none."""
        ends = (self.tokenizer.eos_token_id, self._end)
        return next(token for token in ends if token is not None)

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

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer where the template does it by more than one token."""
        return (self.closing,) if self.closing else ()

    def _up_to_end(self, turn: range, ids: Sequence[int]) -> range:
        """Return a turn up to the token that ends it, without the line end after that."""
        ends = [at for at in turn if ids[at] in self._special or ids[at] == self._end]
        return range(turn.start, ends[-1] + 1) if ends else turn

    def _encode(self, text: str) -> list[int]:
        # the template has written the special tokens already
        encoding = self.tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoding["input_ids"]
        return ids

    def _end_of_turn(self) -> int | None:
        """Return the token with which the template ends an answer, if it is one added token."""
        sample = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before, after = self._turn(sample, 1, self.text(sample, prompt=False), 1)
        text = self.text(sample, prompt=False)
        closing = text[text.index("b", before) + 1 : after].strip()
        tokens = self._encode(closing)
        if tokens and tokens[0] in self.tokenizer.added_tokens_decoder:
            return tokens[0]
        self.closing = closing
        return None


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
    for field in ("tools", "functions"):
        if is_given(example, field) and example[field]:
            raise _tools_error(place_of(number, field))
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


def check_conversation(example: Example, number: int) -> None:
    """Check the messages of a training example, as far as that needs no chat template.

    Raises:
        DataError: naming example and field, when the example can't be learned from.
    """
    check_learnable(example, conversation(example, number, ""), number)
    unlearned_messages(example, number)


def check_message(item: Any, place: str) -> Message:
    """Return a message with nothing but role and content."""
    if not isinstance(item, dict):
        raise DataError(
            f"a message must be an object with role and content, not {item!r}", place=place
        )
    if (
        item.get("tool_calls")
        or item.get("function_call")
        or item.get("role") in ("tool", "function")
    ):
        raise _tools_error(place)
    for key in ("role", "content"):
        if not isinstance(item.get(key), str) or not item[key].strip():
            hint = "" if key in item else did_you_mean(key, map(str, item))
            raise DataError(f"a message has no text under {key!r}", place=place, hint=hint)
    if item["role"] not in ROLES:
        raise DataError(
            f"{item['role']!r} is not a role", place=place, hint=did_you_mean(item["role"], ROLES)
        )
    return {"role": item["role"], "content": item["content"]}


def _tools_error(place: str) -> DataError:
    return DataError(
        "the conversation has tools or calls of them, which training does not render",
        place=place,
        hint="Leave out such examples, or write calls and results as the text of messages",
    )


def unlearned_messages(example: Example, number: int) -> frozenset[int]:
    """Return the messages that an example excludes from learning, counted from the end (-1).

    A message is excluded by ``"weight": 0`` or ``"train": false``.

    Raises:
        DataError: naming the example with another weight than 0 and 1.
    """
    items = example.get("messages") or ()
    found = set()
    for index, item in enumerate(items):
        weight = item.get("weight") if isinstance(item, dict) else None
        if weight not in (None, 0, 1):
            raise DataError(
                f"the weight of a message is 0 or 1, not {weight!r}",
                place=place_of(number, "messages"),
            )
        if weight == 0 or (isinstance(item, dict) and item.get("train") is False):
            found.add(index - len(items))
    return frozenset(found)


def unused_keys(examples: Iterable[Example]) -> list[str]:
    """Return the keys of messages that are not used, such as names, sorted."""
    keys = {
        str(key)
        for example in examples
        for item in (example.get("messages") or ())
        if isinstance(item, dict)
        for key, value in item.items()
        if value is not None
    }
    return sorted(keys - {"role", "content", "weight", "train", "tool_calls"})


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
