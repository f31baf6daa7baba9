"""The backbone's chat template: conversations as tokens, and what is learned of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.conversations import plain_messages, tools_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.conversations import Message


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
        self._variables = template_variables(tokenizer.chat_template)
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
        tools, place = tools_of(messages), f"example {number}"
        if tools and "tools" not in self._variables:
            raise DataError(
                "the example has tools, which the chat template of the backbone does not render",
                place=place,
                hint="Leave out such examples, or use a backbone whose template has tools",
            )
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                plain_messages(messages),
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(
                f"the chat template rejects the conversation: {error}", place=place
            ) from error
        return rendered

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the assistant's answer starts."""
        return self._encode(self.text(messages, prompt=True))

    def answer_text(self, messages: Sequence[Message], number: int) -> str:
        """Return the last message, an answer, as text that is generated: with its calls."""
        text = self.text(messages, prompt=False, number=number)
        start, end = self._turn(messages, len(messages) - 1, text, number)
        ids = self._encode(text[start:end])
        turn = self._up_to_end(range(len(ids)), ids)
        answer: str = self.tokenizer.decode(ids[: turn.stop], skip_special_tokens=True)
        return (answer.partition(self.closing)[0] if self.closing else answer).strip()

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
                that turns can't be separated; it may change what is before the first learned turn.
        """
        indices = [
            index
            for index, message in enumerate(messages)
            if index and message["role"] == "assistant" and index - len(messages) not in unlearned
        ]
        # what follows the last learned turn is neither read nor learned
        messages = messages[: indices[-1] + 1] if indices else messages
        text = self.text(messages, prompt=False, number=number)
        _check_rendered(messages, text, number)
        turns = [self._turn(messages, index, text, number) for index in indices]
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
                hint="Set task.learned_turns: last to learn the last answer of each example, "
                "or use another backbone",
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


def template_variables(template: object) -> frozenset[str]:
    """Return the names that a chat template reads and does not set itself."""
    sources = template.values() if isinstance(template, dict) else [template]
    found: set[str] = set()
    for source in map(str, sources):
        try:
            parsed = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
                source
            )
            found |= set(meta.find_undeclared_variables(parsed))
        except TemplateError:
            # transformers has extensions of its own
            found |= {"tools"} if "tools" in source else set()
    return frozenset(found)


def _check_rendered(messages: Sequence[Message], text: str, number: int) -> None:
    """Require the calls of tools, their results and the reasoning of the last answer in a text.

    A template that does not know them leaves them out without an error.
    """
    for index, message in enumerate(messages):
        needed = [("a call of a tool", call["function"]["name"]) for call in _calls(message)]
        if message["role"] == "tool":
            needed.append(("the result of a tool", message["content"].strip()))
        if index == len(messages) - 1:
            needed.append(("reasoning_content", message.get("reasoning_content", "").strip()))
        for what, content in needed:
            if content not in text:
                raise DataError(
                    f"the chat template of the backbone leaves out {what}",
                    place=f"example {number}, message {index + 1}",
                    hint="Leave out such examples, or use a backbone whose template renders it",
                )


def _calls(message: Message) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    return calls
