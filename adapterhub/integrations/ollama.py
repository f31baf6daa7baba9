"""Export to Ollama: a folder with ``Modelfile``, the base model, and the adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import TextGeneration

MODELFILE = "Modelfile"
#: Contents of messages that no chat template holds.
_SYSTEM, _ASK, _ANSWER, _AGAIN = "⟦system⟧", "⟦ask⟧", "⟦answer⟧", "⟦again⟧"
#: Texts that can't stand in a template between three quotes.
_MARKUP = ('"""', "{{", "}}")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The texts around messages, which a chat template of Ollama consists of.

    Args:
        default: Text before a conversation without a system message.
        system: Texts before and after a system message.
        user: Texts before and after a user's message.
        assistant: Texts before and after an answer.
        start: Text before a new answer.
    """

    default: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    start: str

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return a conversation as Ollama renders it, up to the start of the next answer."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        texts = ["" if messages[0]["role"] == "system" else self.default]
        for message in messages:
            before, after = around[message["role"]]
            texts += [before, message["content"], after]
        return "".join([*texts, self.start])

    def template(self) -> str:
        """Return the template of a Modelfile, in Go's language of templates."""
        conditions = ("if", "else if", "else if")
        parts = ((role, getattr(self, role)) for role in ("system", "user", "assistant"))
        blocks = "".join(
            f'{{{{ {condition} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for condition, (role, (before, after)) in zip(conditions, parts, strict=True)
        )
        return (
            f"{{{{ if not .System }}}}{self.default}{{{{ end }}}}"
            f"{{{{ range .Messages }}}}{blocks}{{{{ end }}}}{{{{ end }}}}{self.start}"
        )


def chat_format(tokenizer: PreTrainedTokenizerBase, place: str) -> ChatFormat:
    """Return the texts around messages of a tokenizer's chat template.

    They are read off rendered conversations, and other conversations must be rendered alike.

    Raises:
        ArtifactError: If the template does more than put texts around messages.
    """

    def render(*messages: tuple[str, str], start: bool = False) -> str:
        listed = [{"role": role, "content": content} for role, content in messages]
        text: Any = tokenizer.apply_chat_template(
            listed, tokenize=False, add_generation_prompt=start
        )
        return str(text)

    system, ask, answer = ("system", _SYSTEM), ("user", _ASK), ("assistant", _ANSWER)
    again = ("user", _AGAIN)
    try:
        found = _read_format(render, system, ask, answer, again)
        for messages in (
            [ask],
            [system, ask],
            [ask, answer, again],
            [system, ask, answer, again, answer, ask],
        ):
            listed = [{"role": role, "content": content} for role, content in messages]
            if found.render(listed) != render(*messages, start=True):
                raise ValueError("conversations are rendered differently")
        if any(mark in text for text in _texts(found) for mark in _MARKUP):
            raise ValueError("it holds braces or quotes of a Modelfile")
    except Exception as error:
        raise ArtifactError(
            f"its chat template can't be written for Ollama: {error}",
            place=place,
            hint="Export with --format gguf, and write a Modelfile with a TEMPLATE of your own",
        ) from error
    return _without_bos(found, tokenizer)


def write_modelfile(
    folder: Path,
    *,
    base: str,
    adapter: str | None,
    tokenizer: PreTrainedTokenizerBase,
    generation: TextGeneration,
    place: str,
) -> None:
    """Write the ``Modelfile`` of a folder.

    Args:
        base: Name of the GGUF file of the model.
        adapter: Name of the GGUF file of the adapter; ``None`` if it is merged.
        generation: Text generation of the adapter's task.
        place: Name of the adapter, for messages.

    Raises:
        ArtifactError: If the chat template or the system prompt can't be written.
    """
    prompt = generation.options.system_prompt
    if any(mark in prompt for mark in _MARKUP):
        raise ArtifactError("its system prompt holds quotes or braces of a Modelfile", place=place)
    stops = [str(tokenizer.decode([each])) for each in sorted(generation.stop_ids)]
    lines = [
        f"FROM ./{base}",
        *([] if adapter is None else [f"ADAPTER ./{adapter}"]),
        f'TEMPLATE """{chat_format(tokenizer, place).template()}"""',
        *([f'SYSTEM """{prompt}"""'] if prompt else []),
        *(f"PARAMETER stop {json.dumps(each)}" for each in (*stops, *generation.stop_strings)),
        "PARAMETER temperature 0",
    ]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_format(render: Any, *messages: tuple[str, str]) -> ChatFormat:
    """Return the texts around messages, each from the conversations that isolate it."""
    system, ask, answer, again = messages
    rest = render(system, ask)
    opening, rest = rest.split(_SYSTEM)
    between, ask_after = rest.split(_ASK)
    first, rest = render(ask, answer).split(_ASK)
    answer_before, answer_after = rest.removeprefix(ask_after).split(_ANSWER)
    rest = render(ask, answer, again).split(_ANSWER)[1].removeprefix(answer_after)
    ask_before = rest.split(_AGAIN)[0]
    alone = render(ask)
    return ChatFormat(
        default=first.removesuffix(ask_before),
        system=(opening, between.removesuffix(ask_before)),
        user=(ask_before, ask_after),
        assistant=(answer_before, answer_after),
        start=render(ask, start=True).removeprefix(alone),
    )


def _texts(found: ChatFormat) -> tuple[str, ...]:
    return (found.default, *found.system, *found.user, *found.assistant, found.start)


def _without_bos(found: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Leave out a first token that the tokenizer itself adds."""
    ids: Any = tokenizer("a")["input_ids"]
    if not ids or ids[0] != tokenizer.bos_token_id:
        return found
    bos = str(tokenizer.bos_token)
    before, after = found.system
    return ChatFormat(
        found.default.removeprefix(bos),
        (before.removeprefix(bos), after),
        found.user,
        found.assistant,
        found.start,
    )
