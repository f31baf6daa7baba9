"""Prompts: conversations, task examples and tokens, by the backbone's tokenizer and template."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.detokenizer import token_bytes
from adapterhub.errors import AdapterHubError, RequestError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.chat_template import ChatTemplate, template_variables
from adapterhub.tasks.preprocessors import SpeechProcessor
from adapterhub.tasks.table import build_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.prompts import PromptProcessor
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.server.resolved_adapter import ResolvedAdapter
    from adapterhub.tasks.base import Task, TextGeneration
    from adapterhub.tasks.transcription import Transcription

#: Most adapters whose tasks are cached.
MAX_TASKS = 256
#: Most tokens whose bytes are cached.
MAX_TOKENS = 65536


class ChatPrompts:
    """Renders conversations by the chat template. Safe for use from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reader: PromptProcessor) -> None:
        self._tokenizer = tokenizer
        self._reader = reader
        template = tokenizer.chat_template
        self._template = template if isinstance(template, str) else ""
        self.supports_tools = "tools" in template_variables(self._template)

    @cached_property
    def stops(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Tokens and texts with which the template ends an answer, as adapters learn it."""
        try:
            template = ChatTemplate(self._tokenizer)
        except AdapterHubError:
            return frozenset(), ()
        return template.stop_ids, template.stop_strings

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        check: Callable[[str], object] = len,
    ) -> tuple[int, ...]:
        """Return the prompt tokens of a conversation, up to the start of the next answer.

        Args:
            messages: Messages of the conversation.
            tools: Tools that the assistant may call.
            check: Called with the text before it is tokenized.
        """
        if not self._template:
            raise RequestError(
                "the backbone has no chat template",
                place="messages",
                hint="Use /v1/completions, or an instruction-tuned backbone",
            )
        if tools and not self.supports_tools:
            raise RequestError(
                "the chat template of the backbone does not support tools",
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
                f"the chat template rejects the conversation: {error}", place="messages"
            ) from error
        check(text)
        # the template has written the special tokens already
        return self._reader.encode(text, special_tokens=False)


class TokenTexts:
    """Converts single tokens to text and bytes, for reports of log-probabilities."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        fast: Any = tokenizer
        backend = fast.backend_tokenizer
        self._bytes = lru_cache(MAX_TOKENS)(lambda token: token_bytes(backend, token))

    def content(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return self._bytes(token)

    def text(self, token: int) -> str:
        """Return the text of a token; incomplete characters become U+FFFD."""
        return self._bytes(token).decode("utf-8", "replace")


class TaskPrompts:
    """Formats examples as the prompts that instruction-tuned adapters were trained with.

    Its methods may read a disk, so call them on a thread.
    """

    def __init__(self, backbone: Backbone, loader: AdapterLoader) -> None:
        # a tokenizer changes its settings while it works, and the backbone's is shared
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._loader = loader
        self._lock = Lock()
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def task(self, adapters: Sequence[ResolvedAdapter]) -> TextGeneration:
        """Return the task with the one instruction that all adapters of a model have."""
        tasks = [self._task_of(part.digest) for part in adapters]
        generations = [task.generation for task in tasks]
        found = [each for each in generations if each is not None and each.reads_fields]
        if not found or len(found) < len(tasks):
            others = ", ".join(part.task or "another task" for part in adapters)
            raise RequestError(
                f"is for {others or 'no task'}, which has no instruction of its own",
                place="model",
                hint="Use /v1/chat/completions, or the route of its task",
            )
        pairs = zip(tasks, found, strict=True)
        if len({(t.name, each.instruction, each.target_frame) for t, each in pairs}) > 1:
            raise RequestError(
                "the adapters of the blend were trained with different instructions or languages",
                place="model",
                hint="Use /v1/chat/completions, and write the instruction yourself",
            )
        return found[0]

    def transcription(self, parts: Sequence[ResolvedAdapter]) -> Transcription:
        """Return how recordings are transcribed: by the task of adapters, or the base model's."""
        tasks: list[Task | None] = [self._task_of(part.digest) for part in parts]
        tasks = tasks or [self._base_transcription]
        found = [each.transcription for each in tasks if each is not None]
        transcribing = [each for each in found if each is not None]
        if not transcribing or len(transcribing) < len(tasks):
            others = ", ".join(part.task or "another task" for part in parts)
            what = f"is for {others}" if others else "the base model does not transcribe"
            raise RequestError(
                what, place="model", hint="Name an adapter that was trained for speech-recognition"
            )
        # languages and times may differ: the first adapter of a blend decides
        return transcribing[0]

    @cached_property
    def _base_transcription(self) -> Task | None:
        processor, backbone = self._backbone.preprocessor, self._backbone
        if not backbone.transcribes or not isinstance(processor, SpeechProcessor):
            return None
        extractor: Any = processor.feature_extractor
        options = TaskOptions(max_seconds=extractor.chunk_length)
        return build_task("speech-recognition", processor, backbone.kind, (), options)

    def prompt(self, task: TextGeneration, example: Mapping[str, Any]) -> Sequence[int]:
        """Return the prompt tokens of an example."""
        with self._lock:
            return task.prompt_ids(task.messages(example, 1))

    def _task_of(self, digest: str) -> Task:
        with self._lock:
            cached = self._tasks.get(digest)
            if cached is not None:
                self._tasks.move_to_end(digest)
                return cached
        manifest = self._loader.fetch(digest).result().manifest
        with self._lock:
            task = self._tasks[digest] = task_of(manifest, self._backbone)
            if len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
            return task
