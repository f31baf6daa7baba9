"""Conversations, instructions and preferences as other libraries write them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from adapterhub.data.store import Example

#: Names of roles in ShareGPT's form. Source: LLaMA-Factory, data/README.md; axolotl, docs.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
#: Keys of a message that are the same in all forms.
_KEPT = ("weight", "train", "tool_calls", "tool_call_id", "name", "reasoning_content")
#: Keys of the text of a message.
_CONTENTS = ("value", "content", "text")
_ANSWERS = ("output", "response")


def openai(example: Example, place: str) -> Iterator[Example]:
    """Yield an example with ``messages``, whose ``tools`` may be a JSON text."""
    yield {**example, **_tools(example, place)}


def sharegpt(example: Example, place: str) -> Iterator[Example]:
    """Yield ShareGPT's ``conversations``, or ``turns`` of another name, as ``messages``."""
    name = "conversations" if "conversations" in example else "turns"
    items = example.get(name)
    if not isinstance(items, list) or not items:
        raise DataError(
            f"must be a list of messages, not {items!r:.80}", place=f"{place}, field {name!r}"
        )
    messages = [_message(item, f"{place}, message {at}") for at, item in enumerate(items, 1)]
    system = example.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, {"role": "system", "content": system})
    yield {"messages": messages, **_tools(example, place)}


def alpaca(example: Example, place: str) -> Iterator[Example]:
    """Yield ``instruction``, ``input`` or ``context``, and ``output`` as a prompt and a response.

    Earlier exchanges in ``history`` make it ``messages``.
    """
    answer = next((example[name] for name in _ANSWERS if example.get(name) is not None), None)
    extra = example.get("input") if example.get("input") is not None else example.get("context")
    fields = {
        "prompt": example.get("instruction"),
        "input": extra,
        "response": answer,
        "system": example.get("system") or None,
    }
    history = example.get("history")
    if not history:
        yield {name: value for name, value in fields.items() if value is not None}
        return
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise DataError(
            "must be a list of pairs of a prompt and its answer", place=f"{place}, field 'history'"
        )
    turns = [text for pair in history for text in pair]
    prompt = f"{fields['prompt']}\n\n{extra}" if extra else fields["prompt"]
    messages = [*_opening(fields["system"]), *_turns([*turns, prompt, answer])]
    yield {"messages": messages}


def completion(example: Example, place: str) -> Iterator[Example]:
    """Yield ``prompt`` and ``completion``, as texts or as lists of messages."""
    prompt, answer = example.get("prompt"), example.get("completion")
    if isinstance(prompt, str) and isinstance(answer, str):
        yield {"prompt": prompt, "response": answer}
        return
    yield {
        "messages": [
            *_as_messages(prompt, "user", place),
            *_as_messages(answer, "assistant", place),
        ],
        **_tools(example, place),
    }


def preference(example: Example, place: str) -> Iterator[Example]:
    """Yield ``prompt``, ``chosen`` and ``rejected`` as lists of messages.

    Where the prompt is part of both answers, it is the messages that they begin with in common.
    """
    chosen = _as_messages(example.get("chosen"), "assistant", place)
    rejected = _as_messages(example.get("rejected"), "assistant", place)
    prompt = example.get("prompt")
    if prompt is not None:
        opening = _as_messages(prompt, "user", place)
        # some sets repeat the prompt in the answers
        if chosen[: len(opening)] == opening and rejected[: len(opening)] == opening:
            chosen, rejected = chosen[len(opening) :], rejected[len(opening) :]
    else:
        pairs = enumerate(zip(chosen, rejected, strict=False))
        shared = next(
            (at for at, (one, two) in pairs if one != two), min(len(chosen), len(rejected))
        )
        opening, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    yield {"prompt": opening, "chosen": chosen, "rejected": rejected, **_tools(example, place)}


def kto(example: Example, place: str) -> Iterator[Example]:
    """Yield ``prompt`` and ``completion`` as lists of messages, and ``label`` as it is."""
    yield {
        "prompt": _as_messages(example.get("prompt"), "user", place),
        "completion": _as_messages(example.get("completion"), "assistant", place),
        "label": example.get("label"),
    }


def _message(item: Any, place: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(f"a message must be an object, not {item!r:.80}", place=place)
    role = item.get("from", item.get("role"))
    content = next((item[key] for key in _CONTENTS if key in item), None)
    kept = {key: item[key] for key in _KEPT if key in item}
    if role == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content, place), **kept}
    if role not in _ROLES:
        raise DataError(
            f"{role!r} is not a role of ShareGPT's form",
            place=place,
            hint=did_you_mean(str(role), [*_ROLES, "function_call"]),
        )
    return {"role": _ROLES[role], "content": content, **kept}


def _calls(content: Any, place: str) -> list[dict[str, Any]]:
    """Return the calls in a message of LLaMA-Factory, a JSON object or a list of them."""
    found = _parsed(content, place, "a call of a tool")
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise DataError("a call of a tool must be an object with name and arguments", place=place)
    return [
        {"type": "function", "function": {"name": c["name"], "arguments": c.get("arguments", {})}}
        for c in calls
    ]


def _tools(example: Mapping[str, Any], place: str) -> dict[str, Any]:
    tools = example.get("tools")
    if isinstance(tools, str):
        tools = _parsed(tools, f"{place}, field 'tools'", "the list of tools") if tools else None
    return {"tools": tools} if tools else {}


def _parsed(text: Any, place: str, what: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not valid JSON: {error}", place=place) from error


def _as_messages(value: Any, role: str, place: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise DataError(f"must be text or a list of messages, not {value!r:.80}", place=place)
    return [_message(item, f"{place}, message {at}") for at, item in enumerate(value, 1)]


def _opening(system: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}] if system else []


def _turns(texts: list[Any]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
