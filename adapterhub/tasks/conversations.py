"""Conversations: the messages of an example, in one form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, did_you_mean
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adapterhub.tasks.fields import Example

ROLES = ("system", "user", "assistant", "tool")
#: Other names of roles in OpenAI's API.
_OTHER_ROLES = {"developer": "system", "function": "tool"}
#: Keys of messages that are used, or say what is learned.
_USED_KEYS = frozenset(
    {"role", "content", "weight", "train", "reasoning_content"}
    | {"tool_calls", "function_call", "tool_call_id"}
)

#: A message: ``role`` is one of ``ROLES``; ``content`` is text, blank at most beside
#: ``tool_calls``. The first message has the ``tools`` that the assistant may call.
Message = dict[str, Any]


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
    tools = _tools(example, number)
    return [{**messages[0], "tools": tools}, *messages[1:]] if tools else messages


def tools_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the tools that the assistant may call in a conversation."""
    return next((message["tools"] for message in messages if "tools" in message), [])


def plain_messages(messages: Sequence[Message]) -> list[Message]:
    """Return the messages of a conversation without its tools, as chat templates read them."""
    return [{k: v for k, v in message.items() if k != "tools"} for message in messages]


def check_conversation(example: Example, number: int) -> None:
    """Check the messages of a training example, as far as that needs no chat template.

    Raises:
        DataError: naming example and field, when the example can't be learned from.
    """
    check_learnable(example, conversation(example, number, ""), number)
    unlearned_messages(example, number)


def check_message(item: Any, place: str) -> Message:
    """Return a message with nothing but what chat templates read.

    ``developer`` is the role ``system``, and ``function`` the role ``tool``. Parts of content that
    are text are joined. Calls of tools have their arguments as objects.
    """
    if not isinstance(item, dict):
        raise DataError(
            f"a message must be an object with role and content, not {item!r}", place=place
        )
    role = item.get("role")
    if not isinstance(role, str) or not role.strip():
        raise _no_text("role", item, place)
    role = _OTHER_ROLES.get(role, role)
    if role not in ROLES:
        raise DataError(f"{role!r} is not a role", place=place, hint=did_you_mean(role, ROLES))
    calls = _calls(item, place)
    content = _content(item, place)
    if not content.strip() and not calls and role != "tool":
        raise _no_text("content", item, place)
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    for key in (
        "tools",
        "reasoning_content",
        *(("tool_call_id", "name") if role == "tool" else ()),
    ):
        if item.get(key):
            message[key] = item[key]
    return message


def _no_text(key: str, item: dict[str, Any], place: str) -> DataError:
    hint = "" if key in item else did_you_mean(key, map(str, item))
    return DataError(f"a message has no text under {key!r}", place=place, hint=hint)


def _content(item: dict[str, Any], place: str) -> str:
    """Return the content of a message as text; none where it is null."""
    content = item.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _no_text("content", item, place)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise DataError(
                f"a part of the content is {kind or part!r:.40}, and only text is read", place=place
            )
        texts.append(part["text"])
    return "".join(texts)


def _calls(item: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the calls of tools in a message, with their arguments as objects."""
    calls = item.get("tool_calls") or []
    if not calls and item.get("function_call"):
        # OpenAI's former form
        calls = [{"type": "function", "function": item["function_call"]}]
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(
                f"a call of a tool needs a function with a name, found {call!r:.60}", place=place
            )
        arguments = _arguments(function.get("arguments", {}), place)
        kept = {"id": call["id"]} if "id" in call else {}
        named = {"name": function["name"], "arguments": arguments}
        found.append({**kept, "type": "function", "function": named})
    return found


def _arguments(arguments: Any, place: str) -> Any:
    """Return the arguments of a call as an object, which templates write as JSON themselves."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"the arguments of a call are not JSON: {error}", place=place) from error


def _tools(example: Example, number: int) -> list[dict[str, Any]]:
    """Return the tools of an example in OpenAI's form; they may be given as a JSON text."""
    for field in ("tools", "functions"):
        place = place_of(number, field)
        tools = example.get(field)
        if isinstance(tools, str) and tools.strip():
            try:
                tools = json.loads(tools)
            except (ValueError, RecursionError) as error:
                raise DataError(f"is not JSON: {error}", place=place) from error
        if not tools:
            continue
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise DataError("must be a list of tools, each an object", place=place)
        bare = [tool if "function" in tool else {"function": tool} for tool in tools]
        return [{"type": "function", **tool} for tool in bare]
    return []


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
    return sorted(keys - _USED_KEYS)


def up_to_answer(messages: Sequence[Message], number: int) -> list[Message]:
    """Return the messages up to the last answer of the assistant; there must be one."""
    for index in range(len(messages) - 1, 0, -1):
        if messages[index]["role"] == "assistant":
            return list(messages[: index + 1])
    raise DataError("the conversation has no answer of the assistant", place=f"example {number}")


def without_oldest(messages: Sequence[Message]) -> list[Message] | None:
    """Return the conversation without its oldest turn; ``None`` where only one is left.

    A turn is a message of the user and all up to the next one. A system message stays.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    for index in range(first + 1, len(messages)):
        if messages[index]["role"] == "user":
            left = [*messages[:first], *messages[index:]]
            tools = tools_of(messages)
            return [{**left[0], "tools": tools}, *left[1:]] if tools else left
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
