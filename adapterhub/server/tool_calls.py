"""Tool calls: parsing those of a model's text, and the schema that enforces one.

Many instruction-tuned models write a call as ``<tool_call>{"name": …}</tool_call>``. If a call
is required, the answer follows a JSON schema instead and is one call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from adapterhub.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.server.schemas.openai import ChatRequest, Function

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def required_schema(body: ChatRequest) -> dict[str, Any] | None:
    """Return the schema of an answer that must be a tool call; ``None`` if it need not be."""
    choice = body.tool_choice
    if choice is None or choice in ("none", "auto"):
        return None
    functions = [tool.function for tool in body.tools or ()]
    if not isinstance(choice, str):
        name = choice.function.name
        known = [function.name for function in functions]
        functions = [function for function in functions if function.name == name]
        if not functions:
            raise RequestError(
                f"{name!r:.80} is not one of the tools",
                place="tool_choice",
                hint=did_you_mean(name, known),
            )
    if not functions:
        raise RequestError("is empty, and a call is required", place="tools")
    schemas = [_call_schema(function) for function in functions]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


@dataclass(slots=True)
class ToolCallParser:
    """Separates the tool calls of one answer from its text while it is generated.

    Args:
        required: Whether the whole text is one call.
        calls: Calls found so far, in OpenAI's form.
    """

    required: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)
    _buffer: str = ""

    def push(self, text: str) -> str:
        """Add text; return what is certainly not part of a call."""
        self._buffer += text
        return "" if self.required else self._plain(final=False)

    def finish(self) -> str:
        """Return the buffered text at the end of the answer."""
        if not self.required:
            return self._plain(final=True)
        text, self._buffer = self._buffer, ""
        return "" if self._parse(text) else text

    def _plain(self, *, final: bool) -> str:
        found = ""
        while True:
            before, mark, rest = self._buffer.partition(_OPEN)
            if not mark:
                break
            inner, end, after = rest.partition(_CLOSE)
            if not end and not final:
                self._buffer = mark + rest
                return found + before
            self._buffer = after
            found += before if self._parse(inner) else before + mark + inner + end
        keep = 0 if final else _overlap(self._buffer)
        found += self._buffer[: len(self._buffer) - keep]
        self._buffer = self._buffer[len(self._buffer) - keep :]
        return found

    def _parse(self, text: str) -> bool:
        """Add the call that a text contains; return whether it is one."""
        try:
            call = json.loads(text)
        except ValueError:
            return False
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return False
        arguments = call.get("arguments", call.get("parameters", {}))
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": call["name"], "arguments": written}
        self.calls.append({"id": f"call_{uuid4().hex}", "type": "function", "function": function})
        return True


def template_messages(body: ChatRequest) -> list[dict[str, Any]]:
    """Return a request's messages in the form of chat templates."""
    return [_template_message(message.model_dump(exclude_none=True)) for message in body.messages]


def template_tools(body: ChatRequest) -> Sequence[dict[str, Any]]:
    """Return a request's tools in the form of chat templates."""
    if body.tool_choice == "none":
        return ()
    return [tool.model_dump(exclude_none=True) for tool in body.tools or ()]


def _template_message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content", "")
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    calls = [
        {**call, "function": {**call["function"], "arguments": _arguments(call["function"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "role": role, "content": content} | ({"tool_calls": calls} if calls else {})


def _arguments(function: dict[str, Any]) -> Any:
    """Return arguments as an object, which templates write as JSON themselves."""
    try:
        return json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return function["arguments"]


def _call_schema(function: Function) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": function.name},
            "arguments": function.parameters or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _overlap(text: str) -> int:
    """Return the length of the longest end of a text that may begin a call."""
    lengths = range(min(len(_OPEN) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(_OPEN[:length])), 0)
