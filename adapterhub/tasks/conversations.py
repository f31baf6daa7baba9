"""Data examples as conversations, and long conversations made shorter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, did_you_mean
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.base import Example
    from adapterhub.tasks.chat_template import Message

ROLES = ("system", "user", "assistant")


def conversation(example: Example, number: int, system_prompt: str) -> list[Message]:
    """Return the messages of an example.

    They are the example's ``messages``; or a message of the user, ``prompt`` with ``input``
    below it where there is one, and, where it is there, the assistant's ``response``, after
    a ``system`` message if the example has one.

    Args:
        example: with ``messages`` or ``prompt``, not both.
        number: of the example, for errors.
        system_prompt: first message where the example has no system message; empty for none.

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
    """Return a message with its role and content alone.

    Raises:
        DataError: when it is no message.
    """
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
            f"{item['role']!r} is no role", place=place, hint=did_you_mean(item["role"], ROLES)
        )
    return {"role": item["role"], "content": item["content"]}


def split_answer(messages: Sequence[Message], number: int) -> tuple[list[Message], str]:
    """Return the messages before the last answer, and that answer.

    Raises:
        DataError: when the assistant answers nothing.
    """
    for index in range(len(messages) - 1, 0, -1):
        if messages[index]["role"] == "assistant":
            return list(messages[:index]), messages[index]["content"]
    raise DataError("the conversation has no answer of the assistant", place=f"example {number}")


def without_oldest(messages: Sequence[Message]) -> list[Message] | None:
    """Return the conversation without its oldest turn, ``None`` where only one is left.

    A turn is a message of the user and what follows it. A system message stays.
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
    """Check that an example has an answer to learn from.

    Raises:
        DataError: naming example and field, when it has none.
    """
    if not is_given(example, "messages"):
        required(example, "response", number)
    elif not any(message["role"] == "assistant" for message in messages):
        raise DataError(
            "the conversation has no message of the assistant", place=place_of(number, "messages")
        )
