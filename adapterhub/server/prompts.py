"""Conversations as the tokens that the backbone's own chat template makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError

from adapterhub.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.engine.requests import PromptProcessor


class ChatPrompts:
    """Renders conversations. Safe for use from several threads.

    Args:
        tokenizer: of the backbone.
        reader: that tokenizes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reader: PromptProcessor) -> None:
        self._tokenizer = tokenizer
        self._reader = reader
        template = tokenizer.chat_template
        self._template = template if isinstance(template, str) else ""
        self.knows_tools = "tools" in _variables(self._template)

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """Return the tokens after which the assistant's answer starts.

        Args:
            messages: of the conversation.
            tools: that the assistant may call.

        Raises:
            RequestError: when there is no template, or it refuses the conversation.
        """
        if not self._template:
            raise RequestError(
                "the backbone has no chat template",
                place="messages",
                hint="Use /v1/completions, or an instruction-tuned backbone",
            )
        if tools and not self.knows_tools:
            raise RequestError(
                "the chat template of the backbone knows no tools",
                place="tools",
                hint="Leave tools out, or set tool_choice to required or to one function",
            )
        text: Any
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise RequestError(
                f"the chat template refuses the conversation: {error}", place="messages"
            ) from error
        # the template has written the special tokens already
        return self._reader.encode(text, special_tokens=False)


def _variables(template: str) -> set[str]:
    """Return the names that a template reads and does not set itself."""
    try:
        parsed = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            template
        )
        return set(meta.find_undeclared_variables(parsed))
    except TemplateError:
        # transformers has extensions of its own
        return {"tools"} if "tools" in template else set()
