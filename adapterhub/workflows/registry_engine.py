"""Engine of the public API: the engine with adapters given by expressions over a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from adapterhub.engine.engine import Engine
from adapterhub.hub.loader import AdapterLoader
from adapterhub.refs import parse_blend
from adapterhub.tasks.chat_template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.outputs import EngineStats, RequestOutput
    from adapterhub.engine.sampling.params import SamplingParams
    from adapterhub.registry.registry import Registry

#: An expression such as ``a@prod*0.7+b*0.3``, or ``None`` for the base model.
Adapter: TypeAlias = "str | None"
Prompt: TypeAlias = "str | Sequence[int]"


class RegistryEngine:
    """Continuous batching of requests with different adapters on one frozen backbone.

    An adapter is given by an expression: a reference such as ``support@prod`` or
    ``hf://owner/name``, or a weighted combination such as ``support@prod*0.7+tone*0.3``. It is
    resolved to digests once, when the request is added, and loaded on demand. The backbone
    belongs to the engine until `close`; the engine is a context manager. Not safe for use from
    several threads.

    Args:
        backbone: Frozen backbone shared by all adapters.
        registry: Registry that adapters are loaded from; the base model alone if not given.
        config: Sizes of batches and caches.

    Raises:
        EngineError: When the architecture of the backbone is not supported.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        registry: Registry | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self._backbone = backbone
        self._loader = None if registry is None else AdapterLoader(registry)
        self._engine = Engine(backbone, config, source=self._loader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def backbone(self) -> Backbone:
        """Frozen backbone."""
        return self._backbone

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, prompts: str, *, adapter: Adapter = None, params: SamplingParams | None = None
    ) -> RequestOutput: ...
    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: Adapter | Sequence[Adapter] = None,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]: ...
    def generate(
        self,
        prompts: str | Sequence[Prompt],
        *,
        adapter: Adapter | Sequence[Adapter] = None,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> RequestOutput | list[RequestOutput]:
        """Generate completions of prompts.

        Args:
            prompts: One text, or a sequence of texts or token ids. No chat template is applied.
            adapter: Adapter expression of all prompts, or one for each.
            params: Sampling parameters of all prompts, or one for each.

        Returns:
            One output for one prompt, else a list. In a list, an output that failed has its
            ``error`` set.

        Raises:
            AdapterHubError: When the only prompt fails.
        """
        many = [prompts] if isinstance(prompts, str) else list(prompts)
        found = self._engine.generate(many, self._each(adapter, len(many)), params)
        return _only(found) if isinstance(prompts, str) else found

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        adapter: Adapter = None,
        params: SamplingParams | None = None,
    ) -> RequestOutput:
        """Generate the assistant's next message of a conversation.

        Args:
            messages: Messages with ``role`` and ``content``, rendered by the chat template.
            adapter: Adapter expression.
            params: Sampling parameters.

        Raises:
            AdapterHubError: When the request fails.
        """
        ids = ChatTemplate(self._backbone.tokenizer).prompt_ids([dict(each) for each in messages])
        return _only(self._engine.generate([ids], self._each(adapter, 1), params))

    def classify(
        self, inputs: Sequence[str | Mapping[str, Any]], *, adapter: str | Sequence[str]
    ) -> list[dict[str, Any]]:
        """Classify texts, pairs of texts, images or recordings.

        Args:
            inputs: Texts, or mappings with the fields of the task.
            adapter: Adapter expression of all inputs, or one for each.

        Returns:
            ``label``, ``score`` and ``scores`` of each input.

        Raises:
            AdapterHubError: For the first input that fails, after all others are done.
        """
        return self._engine.label(inputs, self._each(adapter, len(inputs)))

    def tag(
        self, inputs: Sequence[str | Mapping[str, Any]], *, adapter: str | Sequence[str]
    ) -> list[dict[str, Any]]:
        """Find labelled spans in texts.

        Args:
            inputs: Texts, or mappings with ``text`` or ``tokens``.
            adapter: Adapter expression of all inputs, or one for each.

        Returns:
            ``spans`` of each input, with character offsets.

        Raises:
            AdapterHubError: For the first input that fails, after all others are done.
        """
        return self._engine.label(inputs, self._each(adapter, len(inputs)), kind="token")

    def answer(
        self, inputs: Sequence[Mapping[str, Any]], *, adapter: str | Sequence[str]
    ) -> list[dict[str, Any]]:
        """Answer questions with spans of their contexts.

        Args:
            inputs: Mappings with ``question`` and ``context``.
            adapter: Adapter expression of all inputs, or one for each.

        Returns:
            ``answer``, ``start``, ``end``, ``score`` and ``no_answer`` of each input.

        Raises:
            AdapterHubError: For the first input that fails, after all others are done.
        """
        return self._engine.label(inputs, self._each(adapter, len(inputs)), kind="span")

    def embed(
        self,
        texts: Sequence[str],
        *,
        adapter: Adapter | Sequence[Adapter] = None,
        normalize: bool = False,
    ) -> Tensor:
        """Embed texts by the mean of their last hidden states.

        Args:
            texts: Texts, at least one.
            adapter: Adapter expression of all texts, or one for each.
            normalize: Scale the vectors to length 1.

        Returns:
            Vectors ``[num_texts, hidden_size]``, float32 on the CPU.

        Raises:
            AdapterHubError: For the first text that fails, after all others are done.
        """
        return self._engine.embed(texts, self._each(adapter, len(texts)), normalize=normalize)

    def stats(self) -> EngineStats:
        """Return counters since the engine was built, and its current load."""
        return self._engine.stats()

    def close(self) -> None:
        """Remove all adapters and release the backbone."""
        self._engine.close()
        if self._loader is not None:
            self._loader.close()

    def _each(
        self, adapter: Adapter | Sequence[Adapter], count: int
    ) -> list[tuple[tuple[str, float], ...] | None]:
        """Parse one expression for each of ``count`` requests."""
        each = [adapter] * count if adapter is None or isinstance(adapter, str) else adapter
        return [None if expression is None else parse_blend(expression) for expression in each]


def _only(outputs: list[RequestOutput]) -> RequestOutput:
    (output,) = outputs
    if output.error is not None:
        raise output.error
    return output
