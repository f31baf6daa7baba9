"""Continuous batching over one frozen backbone and many adapters."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import torch

from adapterhub.data.packing import EncodedExample
from adapterhub.engine.core import EngineCore
from adapterhub.engine.outputs import RequestOutput
from adapterhub.engine.pooling_requests import PoolingParams, PoolingRequest
from adapterhub.engine.prompts import PreparedPrompt, PromptProcessor, reads_no_texts
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.sequences import Request, new_request
from adapterhub.errors import AdapterHubError, EngineError, NotFoundError, did_you_mean
from adapterhub.tasks.base import MEDIA_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Sequence as SequenceOf

    from torch import Tensor

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_fetcher import AdapterSource
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.heads import LabelingKind
    from adapterhub.engine.outputs import CompletionDelta, EngineStats
    from adapterhub.engine.pooling_requests import Pooling
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.engine.sequences import Sequence
    from adapterhub.kernels.lora.plan import LoraKernel
    from adapterhub.tasks.base import Task

#: A name, names with weights, or ``None`` for the base model.
Adapters: TypeAlias = "str | SequenceOf[tuple[str, float]] | None"
#: Adapters of each item, or a name for all of them.
AdaptersOfEach: TypeAlias = "str | SequenceOf[Adapters] | None"
_Item = TypeVar("_Item")


class Engine:
    """Generates, labels and embeds with mixed adapters. Not safe for use from several threads.

    The backbone belongs to the engine until ``close``.

    Args:
        backbone: Frozen backbone.
        config: Sizes and limits.
        kernel: Kernel of the LoRA products; the fastest of the device by default.
        source: Source of adapters that are not loaded. It stays the caller's.

    Raises:
        EngineError: If the architecture of the backbone is not supported.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: EngineConfig | None = None,
        *,
        kernel: LoraKernel | None = None,
        source: AdapterSource | None = None,
    ) -> None:
        self.core = EngineCore(backbone, config, kernel=kernel, source=source)
        self.backbone, self.config = backbone, self.core.config
        #: name to digest; the server resolves names itself and uses digests as names
        self._names: dict[str, str] = {}
        self._pinned: dict[str, str] = {}
        self._prompts = None if backbone.kind in MEDIA_KINDS else PromptProcessor(backbone)
        self._numbers = count(1)

    @property
    def prompt_processor(self) -> PromptProcessor:
        """Processor of prompts; safe for use from several threads.

        Raises:
            RequestError: If the backbone reads no texts.
        """
        if self._prompts is None:
            raise reads_no_texts(self.backbone.kind)
        return self._prompts

    @property
    def busy(self) -> bool:
        """Whether a request is waiting or running, or a pinned adapter is being fetched."""
        return self.core.busy

    @property
    def adapters(self) -> Mapping[str, str]:
        """Names of loaded adapters and the digests that they mean now."""
        return dict(self._names)

    @property
    def pinned(self) -> frozenset[str]:
        """Digests of the pinned adapters."""
        return frozenset(self._pinned.values())

    def load(
        self, artifact: Artifact, *, name: str, force: bool = False, needs_effect: bool = True
    ) -> None:
        """Load an adapter under a name; a name in use means this adapter from now on.

        Running requests go on with what the name meant when they were added.

        Args:
            artifact: Verified artifact.
            name: Name of the adapter in requests.
            force: Whether to accept an adapter that was trained on another backbone.
            needs_effect: Whether to reject an adapter that changes nothing.

        Raises:
            FingerprintMismatch: If it was trained on another backbone.
            StrictLoadError: If its tensors do not fit.
            NoEffectError: If it does not change what the base model computes.
            EngineError: If this kind of adapter is not supported, or host memory is full.
        """
        self._load(
            artifact.digest,
            name,
            lambda: self.core.preparer.artifact(
                artifact, name=name, force=force, needs_effect=needs_effect
            ),
        )

    def load_weights(
        self, weights: AdapterWeights, *, key: str, name: str, task: Task | None = None
    ) -> None:
        """Load weights that do not come from an artifact, like ``load``.

        Args:
            weights: Weights of the adapter.
            key: Key that is unique to these weights, such as a digest.
            name: Name of the adapter in requests.
            task: Task that it was trained for, with the labels of its head.

        Raises:
            AdapterHubError: As in ``load``.
        """
        self._load(key, name, lambda: self.core.preparer.weights(weights, task, name=name))

    def unload(self, name: str) -> None:
        """Remove a name, and its adapter if no other name means it.

        Raises:
            NotFoundError: If there is no such name.
            EngineError: If requests use the adapter.
        """
        if name not in self._names:
            raise self._unknown(name)
        key = self._names[name]
        if list(self._names.values()).count(key) == 1:
            self.core.adapters.unload(key)
        del self._names[name]

    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Keep an adapter in host memory, and on the device once it is there; or unpin it.

        An adapter that is not in host memory is fetched by the next steps. The pin stays on the
        digest that the name means now.

        Args:
            name: Name as in ``add``.
            pinned: Whether to pin or to unpin it.

        Raises:
            NotFoundError: If there is no such name.
            EngineError: If it must be pulled from a Hub first.
        """
        key = self._resolve(name) if pinned else self._pinned.pop(name, None)
        if key is not None:
            self.core.adapters.pin(key, pinned=pinned)
            if pinned:
                self._pinned[name] = key

    def add(
        self,
        prompt: str | SequenceOf[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> Request:
        """Add a request to the waiting queue; it can be scheduled from the next step on.

        Args:
            prompt: Text, to which no chat template is applied, token ids, or a prepared prompt.
            adapters: Name of a loaded adapter or a reference that the source knows, names with
                weights, or ``None`` for the base model. Names are resolved now; the request
                waits until the adapters are fetched, and ends with an error if they are
                unavailable.
            params: Sampling parameters, unless ``prompt`` has them.

        Raises:
            NotFoundError: If there is no adapter of that name.
            RequestError: If the prompt is invalid or does not fit into the KV cache, or the
                backbone reads no texts.
            EngineError: If the adapters cannot be blended, or the backbone is an encoder.
        """
        heard = isinstance(prompt, PreparedPrompt) and prompt.media is not None
        end_ids = frozenset[int]() if heard else self.prompt_processor.end_ids
        if self.core.layers.output is None:
            raise EngineError("does not generate text", place=self.backbone.name)
        if not isinstance(prompt, PreparedPrompt):
            prompt = self.prompt_processor.prepare(prompt, params or SamplingParams())
        keys = self._resolve_all(adapters)
        request = new_request(prompt, keys, self._numbers, end_ids=end_ids)
        self.core.add(request.sequences)
        return request

    def add_labeling(
        self,
        item: str | Mapping[str, Any] | EncodedExample,
        adapters: Adapters,
        *,
        kind: LabelingKind = "sequence",
        base: bool = False,
    ) -> PoolingRequest:
        """Add a pooling request that labels a text, an image or a recording.

        Args:
            item: Text, or a mapping with the fields of the adapter's task; or an example that the
                task encoded, whose request has logits as its only result.
            adapters: Adapters as in ``add``; exactly one of them has a head.
            kind: ``sequence`` for one label, ``token`` for tagged spans, ``span`` for the answer
                to a question.
            base: Whether the head reads the base model without the adapters.

        Raises:
            NotFoundError: If there is no adapter of that name.
            EngineError: If not exactly one of them has a head of that kind. If they must be
                fetched first, the request ends with this error or the next.
            DataError: If the text is invalid.
        """
        keys = self._resolve_all(adapters)
        request = PoolingRequest(next(self._numbers), keys, item, kind, base=base)
        self.core.add_pooling(request)
        return request

    def add_scoring(
        self, example: EncodedExample, adapters: Adapters = None, *, task: Task
    ) -> PoolingRequest:
        """Add a pooling request that scores the targets of an example.

        Args:
            example: Tokens, and the targets at the selected ones.
            adapters: Adapters as in ``add``.
            task: Task that generates text; its raw prediction is the result.

        Raises:
            NotFoundError: If there is no adapter of that name.
            EngineError: If the backbone is an encoder.
        """
        if self.core.layers.output is None:
            raise EngineError("does not generate text", place=self.backbone.name)
        keys = self._resolve_all(adapters)
        request = PoolingRequest(next(self._numbers), keys, example, scored_by=task)
        self.core.add_pooling(request)
        return request

    def add_embedding(
        self,
        text: str | SequenceOf[int] | EncodedExample,
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> PoolingRequest:
        """Add a pooling request that embeds a text.

        Args:
            text: Text, token ids, or an encoded example.
            adapters: Adapters as in ``add``.
            pooling: How the hidden states of the tokens become one vector, or several.
            normalize: Whether a vector is normalized to length 1.

        Raises:
            NotFoundError: If there is no adapter of that name.
            RequestError: If the backbone reads no texts.
        """
        # raises an error where the backbone reads no texts
        processor = self.prompt_processor
        if self.backbone.kind == "encoder-decoder":
            raise EngineError(
                "embeddings of an encoder-decoder are not supported",
                place=self.backbone.name,
                hint="Use an encoder or a decoder",
            )
        if not isinstance(text, EncodedExample):
            ids = list(processor.encode(text) if isinstance(text, str) else text)
            text = EncodedExample(1, ids, ())
        request = PoolingRequest(
            next(self._numbers),
            self._resolve_all(adapters),
            text,
            params=PoolingParams(pooling, normalize),
        )
        self.core.add_pooling(request)
        return request

    def cancel(self, request: Request | PoolingRequest) -> None:
        """Cancel a request before the next step."""
        self.core.cancel(request)

    def step(self) -> list[tuple[Sequence, CompletionDelta]]:
        """Compute one step; see ``EngineCore.step``."""
        return self.core.step()

    def generate(
        self,
        prompts: SequenceOf[str | SequenceOf[int] | PreparedPrompt],
        adapters: SequenceOf[Adapters],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Generate for a list of prompts, each with its own adapters, and wait for all.

        Args:
            prompts: Texts, token ids, or prepared prompts, which have their own parameters.
            adapters: Adapters of each prompt, as in ``add``.
            params: Sampling parameters of all prompts, or of each.

        Returns:
            Output of each prompt. One that fails has an ``error`` and does not affect the others.

        Raises:
            ValueError: If the arguments have different lengths.
        """
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        requests = [self._try_add(*one) for one in zip(prompts, adapters, params, strict=True)]
        while self.busy:
            self.step()
        return [one.output() if isinstance(one, Request) else one for one in requests]

    def label(
        self,
        items: SequenceOf[str | Mapping[str, Any]],
        adapters: AdaptersOfEach,
        *,
        kind: LabelingKind = "sequence",
    ) -> list[dict[str, Any]]:
        """Return the task's prediction for each text, image or recording.

        Args:
            items: Texts, or mappings with the fields of the task; long texts are cut into windows.
            adapters: Adapters of each item, or a name for all.
            kind: Kind of the heads as in ``add_labeling``.

        Returns:
            For ``sequence`` ``{"label", "score", "scores"}``, for ``token`` ``{"spans"}``, for
            ``span`` ``{"answer", "start", "end", "score", "no_answer"}``. Offsets are in
            characters.

        Raises:
            AdapterHubError: The first error, after all others are labelled.
        """
        pairs = _pairs(items, adapters)
        requests = [self.add_labeling(item, each, kind=kind) for item, each in pairs]
        return [request.prediction() for request in self._finish(requests)]

    def embed(
        self,
        texts: SequenceOf[str],
        adapters: AdaptersOfEach = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> Tensor:
        """Return a vector for each text, float32 ``[num_texts, hidden_size]`` on the CPU.

        Args:
            texts: Texts, at least one.
            adapters: Adapters of each text, a name for all, or ``None`` for the base model.
            pooling: How the hidden states of the tokens become one vector.
            normalize: Whether the vectors are normalized to length 1.

        Raises:
            AdapterHubError: The first error, after all others are embedded.
        """
        requests = [
            self.add_embedding(text, each, pooling=pooling, normalize=normalize)
            for text, each in _pairs(texts, adapters)
        ]
        return torch.stack([request.embedding() for request in self._finish(requests)])

    def stats(self) -> EngineStats:
        """Return counters and the current load."""
        return self.core.stats()

    def locations(self) -> dict[str, Literal["device", "host"]]:
        """Return where each adapter in memory is, by digest."""
        found: dict[str, Literal["device", "host"]] = dict.fromkeys(self.core.host.keys, "host")
        return found | dict.fromkeys(self.core.slots.resident, "device")

    def adapter_events(self) -> list[tuple[str, str]]:
        """Return the loads (``load``) and evictions (``evict``) of adapters since the last call."""
        return self.core.adapters.device.events()

    def close(self) -> None:
        """Restore the backbone."""
        self.core.close()

    def _finish(self, requests: list[PoolingRequest]) -> list[PoolingRequest]:
        while not all(request.finished for request in requests):
            self.step()
        return requests

    def _try_add(
        self,
        prompt: str | SequenceOf[int] | PreparedPrompt,
        adapters: Adapters,
        params: SamplingParams | None,
    ) -> Request | RequestOutput:
        try:
            return self.add(prompt, adapters, params)
        except AdapterHubError as error:
            return RequestOutput.failed(error, (params or SamplingParams()).n)

    def _load(self, key: str, name: str, prepare: Callable[[], PreparedAdapter]) -> None:
        self.core.host.keep(key, self.core.host.get(key) or prepare())
        self._names[name] = key

    def _resolve(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        if self.core.fetcher is None:
            raise self._unknown(name)
        return self.core.fetcher.resolve(name)

    def _unknown(self, name: str) -> NotFoundError:
        return NotFoundError("is not loaded", place=name, hint=did_you_mean(name, self._names))

    def _resolve_all(self, adapters: Adapters) -> tuple[tuple[str, float], ...]:
        named = [(adapters, 1.0)] if isinstance(adapters, str) else list(adapters or ())
        return tuple((self._resolve(name), float(weight)) for name, weight in named)


def _pairs(items: SequenceOf[_Item], adapters: AdaptersOfEach) -> Iterator[tuple[_Item, Adapters]]:
    """Yield each item with its adapters.

    Raises:
        EngineError: If there are not as many adapters as items.
    """
    if isinstance(items, str):
        raise EngineError("is one text where a list of texts is needed", place="texts")
    each = [adapters] * len(items) if adapters is None or isinstance(adapters, str) else adapters
    if len(each) != len(items):
        raise EngineError(f"{len(each)} adapters for {len(items)} texts", place="adapters")
    return zip(items, each, strict=True)
