"""One frozen backbone and many adapters: rows that generate, are labelled or embedded."""

from __future__ import annotations

import logging
from heapq import merge
from typing import TYPE_CHECKING, Any, Literal

import torch

from adapterhub.backbones.quantize import torch_dtype
from adapterhub.data.packing import EncodedExample
from adapterhub.engine.adapted_layers import adapt_layers
from adapterhub.engine.adapter_fetcher import AdapterFetcher, AdapterSource
from adapterhub.engine.adapter_manager import AdapterManager
from adapterhub.engine.adapter_preparation import AdapterPreparer, virtual_positions
from adapterhub.engine.adapter_slots import BARE, AdapterSlots
from adapterhub.engine.answers import cancel, fail, next_tokens
from adapterhub.engine.block_pool import BlockPool
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.families import check_served
from adapterhub.engine.host_cache import HostCache
from adapterhub.engine.image_body import ImageBody
from adapterhub.engine.model_runner import ModelRunner
from adapterhub.engine.offline import WholeLists
from adapterhub.engine.outputs import EngineStats
from adapterhub.engine.pooling import PoolingParams, PoolingRunner, PoolingSequence
from adapterhub.engine.pooling_requests import EmbedRequest, LabelRequest, PoolingRequest
from adapterhub.engine.requests import (
    PreparedPrompt,
    PromptProcessor,
    Request,
    reads_pictures,
    request_seed,
)
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.sampling.sampler import Sampler
from adapterhub.engine.sampling.state import SamplingState
from adapterhub.engine.scheduler import Scheduler
from adapterhub.engine.sequences import Sequence
from adapterhub.errors import (
    AdapterHubError,
    ComputeError,
    EngineError,
    NotFoundError,
    RequestError,
    did_you_mean,
)
from adapterhub.kernels.attention.kv_cache import KeyValueCache, cache_shape
from adapterhub.kernels.attention.transformers_interface import ATTENTION_NAME, install_attention
from adapterhub.kernels.choice import choose_lora_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Sequence as Rows

    from torch import Tensor

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_manager import Waiting
    from adapterhub.engine.host_cache import Prepared
    from adapterhub.engine.outputs import Delta
    from adapterhub.engine.pooling import Pooling
    from adapterhub.engine.pooling_requests import Adapters, HeadName
    from adapterhub.engine.scheduler import ScheduledChunk
    from adapterhub.kernels.lora.plan import LoraKernel
    from adapterhub.tasks.base import Task


_LOG = logging.getLogger(__name__)

#: Longest wait of a step, in seconds, that has nothing to compute until an adapter comes.
IDLE_SECONDS = 0.005


class Engine(WholeLists):
    """Continuous batching over mixed adapters. Not safe for use from several threads.

    The backbone belongs to the engine until ``close``.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: EngineConfig | None = None,
        *,
        kernel: LoraKernel | None = None,
        source: AdapterSource | None = None,
    ) -> None:
        """Build an engine around a decoder, or a backbone that does not generate.

        Args:
            backbone: frozen.
            settings: sizes.
            kernel: adds the adapters' products; the fastest that there is where not given.
            source: of adapters that are asked for and were not loaded. It stays the caller's.

        Raises:
            EngineError: when the backbone computes what the engine does not.
        """
        check_served(backbone)
        self.backbone = backbone
        self.settings = settings or EngineConfig()
        dtype = torch_dtype(backbone.quantization.compute_dtype)
        self._attention_before = backbone.base_model.config._attn_implementation
        vision = backbone.kind == "vision"
        if not vision:
            install_attention()
            backbone.base_model.config._attn_implementation = ATTENTION_NAME
        kernel = kernel or choose_lora_kernel(backbone.device.type)
        self._sites = adapt_layers(backbone, dtype, kernel)
        self._generates = self._sites.output is not None
        pictures = ImageBody(backbone) if vision else None
        width = pictures.width if pictures else int(backbone.config.hidden_size)
        self._preparer = AdapterPreparer(backbone, self._sites, width)
        self._slots = AdapterSlots(
            list(self._sites.pairs.values()),
            self.settings.rank_slots,
            backbone.device,
            list(self._sites.norms.values()),
        )
        self._host = HostCache(self.settings.host_cache_bytes)
        self._arrivals = (
            AdapterFetcher(source, self._host, self._preparer.size, self._preparer.artifact)
            if source
            else None
        )
        self._residency = AdapterManager(
            self._slots,
            self._host,
            self._arrivals,
            self._settle,
            prefetch_lookahead=self.settings.prefetch_lookahead,
            max_copy_bytes=self.settings.max_copy_bytes,
        )
        self._passes = PoolingRunner(
            backbone, self._residency, tokens=self.settings.max_pooling_tokens, pictures=pictures
        )
        #: texts that wait for their adapters
        self._texts: list[PoolingRequest] = []
        size = self.settings.block_size
        # what does not generate keeps no keys and values
        count = -(-self.settings.kv_cache_tokens // size) if self._generates else 0
        layers, heads, key_width = (0, 0, 0) if vision else cache_shape(backbone.config)
        cache = KeyValueCache(
            layers=layers,
            heads=heads,
            width=key_width,
            # the last one belongs to the inert rows of captured steps
            blocks=count + bool(count),
            block_size=size,
            dtype=dtype,
            device=backbone.device,
        )
        self._forward = ModelRunner(
            backbone, self._sites, cache, self._residency, kernel, self.settings
        )
        self._blocks = BlockPool(count, size)
        self._scheduler = Scheduler(
            self._blocks,
            self._residency,
            self._forward.fill_prefix,
            max_num_seqs=self.settings.max_num_seqs,
            max_num_batched_tokens=self.settings.max_num_batched_tokens,
            prefetch_lookahead=self.settings.prefetch_lookahead,
            max_overtakes=self.settings.max_overtakes,
        )
        self._reader = None if vision else PromptProcessor(backbone)
        self._sampler = Sampler()
        self._names: dict[str, str] = {}
        self._pinned: dict[str, str] = {}
        self._arrived = 0
        self._steps = 0
        self._computed = 0

    @property
    def prompt_processor(self) -> PromptProcessor:
        """Makes prompts ready; safe for use from several threads.

        Raises:
            RequestError: when the backbone reads pictures.
        """
        if self._reader is None:
            raise reads_pictures()
        return self._reader

    @property
    def adapters(self) -> Mapping[str, str]:
        """Names and the digests that they stand for now."""
        return dict(self._names)

    def load(self, artifact: Artifact, *, name: str, force: bool = False) -> None:
        """Make an adapter known under a name; a name that is taken stands for it from now on.

        Rows that run go on with what the name stood for when they came.

        Args:
            artifact: verified, as ``read_artifact`` returns it.
            name: to ask for it by.
            force: accept an adapter that was trained on another backbone.

        Raises:
            FingerprintMismatch: when it was trained on another backbone.
            StrictLoadError: when its tensors do not fit.
            EngineError: when it is of a kind that is not served.
        """
        self._keep(
            artifact.digest,
            name,
            lambda: self._preparer.artifact(artifact, name=name, force=force),
        )

    def load_weights(
        self, weights: AdapterWeights, *, key: str, name: str, task: Task | None = None
    ) -> None:
        """As ``load``, for tensors that are no artifact.

        Args:
            weights: of the adapter.
            key: that no other tensors have, such as a digest.
            name: to ask for it by.
            task: that it was trained for; its labels are those of its head.

        Raises:
            StrictLoadError: when its tensors do not fit.
            EngineError: when it is of a kind that is not served, or host memory is full.
        """
        self._keep(key, name, lambda: self._preparer.weights(weights, task, name=name))

    def unload(self, name: str) -> None:
        """Forget a name, and its adapter where no other name stands for it.

        Raises:
            NotFoundError: when there is no such name.
            EngineError: when rows use it.
        """
        if name not in self._names:
            raise NotFoundError("is not loaded", place=name, hint=did_you_mean(name, self._names))
        key = self._names[name]
        if list(self._names.values()).count(key) == 1:
            self._residency.forget(key)
        del self._names[name]

    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Keep an adapter in host memory, and on the device once it is there; or no longer.

        One that is not in host memory is fetched by the next steps. A pin is for what the name
        means now, also when it means another version later on.

        Args:
            name: as in ``add``.
            pinned: whether to keep it.

        Raises:
            NotFoundError: when there is no such name.
            EngineError: when it has to come from a Hub first.
        """
        key = self._key(name) if pinned else self._pinned.pop(name, None)
        if key is None:
            return
        if self._arrivals is not None and self._arrivals.is_reference(key):
            raise EngineError("is on its way to the registry", place=name, hint="Pin it later")
        if pinned:
            self._pinned[name] = key
        self._residency.pin(key, pinned=pinned)

    def add(
        self,
        prompt: str | Rows[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> Request:
        """Let a request join at the next step.

        Args:
            prompt: Text, token ids, or what ``prompt_processor`` made of them.
            adapters: a name, names with weights, or ``None`` for the bare backbone. A name is
                that of a loaded adapter, or any reference that the source knows: it means what
                it means now, and the request waits until that has come. Where it can't come or
                can't be served, the request ends with the error.
            params: settings, unless ``prompt`` has them; the defaults where not given.

        Raises:
            NotFoundError: when there is no adapter of that name.
            RequestError: when the prompt can't be read, or can never fit into the cache, or the
                backbone reads pictures.
            EngineError: when the adapters can't be used together, or the backbone is an encoder.
        """
        reader = self.prompt_processor
        if not self._generates:
            raise EngineError("does not generate text", place=self.backbone.name)
        ready = (
            prompt
            if isinstance(prompt, PreparedPrompt)
            else reader.read(prompt, params or SamplingParams())
        )
        keys = self._keys(adapters)
        seed = request_seed(ready.params)
        rows = tuple(self._row(ready, index, keys, seed) for index in range(ready.params.n))
        for row in rows:
            self._residency.join(row)
            self._check_room(row)
        for row in rows:
            self._scheduler.add(row)
        return Request(rows, seed)

    def cancel(self, request: Request | PoolingRequest) -> None:
        """Take a request's rows out before the next step."""
        if isinstance(request, PoolingRequest):
            self._drop_text(request, EngineError("was cancelled"))
            return
        for row in request.rows:
            if row.finished is None:
                cancel(row)
                self._scheduler.finish(row)

    def add_labeling(
        self,
        text: str | Mapping[str, Any],
        adapters: Adapters,
        *,
        kind: HeadName = "sequence",
    ) -> LabelRequest:
        """Let a text be labelled in the next passes.

        Args:
            text: itself, or a row with the fields of the adapter's task.
            adapters: as in ``add``; one of them has a head.
            kind: ``sequence`` for one label, ``token`` for tagged spans, ``span`` for the
                answer to a question.

        Raises:
            NotFoundError: when there is no adapter of that name.
            EngineError: when none of them, or more than one, has a head of that kind. Where they
                are not there yet, the request ends with it, and so with the next.
            DataError: when the text can't be used.
        """
        request = LabelRequest(self._next_number(), self._keys(adapters), text, kind)
        self._join_text(request)
        return request

    def add_embedding(
        self,
        text: str | Rows[int],
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> EmbedRequest:
        """Let a text be embedded in one of the next passes.

        Args:
            text: itself, or its token ids.
            adapters: as in ``add``.
            pooling: the mean of all tokens, or the last token.
            normalize: to length 1.

        Raises:
            NotFoundError: when there is no adapter of that name.
            RequestError: when the backbone reads pictures.
        """
        # refuses texts where the backbone reads pictures
        ids = list(self.prompt_processor.encode(text) if isinstance(text, str) else text)
        wish = PoolingParams(pooling, normalize)
        keys = self._keys(adapters)
        request = EmbedRequest(self._next_number(), keys, EncodedExample(1, ids, ()), wish)
        self._join_text(request)
        return request

    def step(self) -> list[tuple[Sequence, Delta]]:
        """Compute one step; return the rows that have something new, and what it is.

        Rows that wait to be labelled or embedded go first, a batch of them: they hold nothing
        afterwards, so those that generate wait for one pass and no longer. A step that the device
        can't compute ends the rows that take part in it by an error.
        """
        lost = self._drop_lost()
        done = self._passes.step()
        # a pass that finds no room while rows come and go is let in by starting none for a while
        starves = self._passes.refused > self.settings.max_overtakes
        pieces = self._scheduler.plan(start=not starves)
        if not pieces:
            if self.busy and not done:
                self._residency.wait(IDLE_SECONDS)
            return lost
        try:
            hidden = self._forward(pieces)
        except (RuntimeError, MemoryError) as error:
            return lost + self._fail(pieces, error)
        self._steps += 1
        self._computed += len(hidden)
        for piece in pieces:
            self._scheduler.computed(piece)
        return lost + self._sample(pieces, hidden)

    def stats(self) -> EngineStats:
        """Return what was done and how full the engine is."""
        return EngineStats(
            steps=self._steps,
            computed_tokens=self._computed,
            preemptions=self._scheduler.preemptions,
            loads=self._residency.loads,
            evictions=self._residency.evictions,
            passes=self._passes.computed_rows,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            resident=len(self._slots.resident),
            fetches=self._arrivals.fetches if self._arrivals is not None else 0,
            host_adapters=len(self._host.keys),
            host_bytes=self._host.nbytes,
            free_blocks=self._blocks.free,
            cache_bytes=self._forward.cache.nbytes,
        )

    def places(self) -> dict[str, Literal["device", "host"]]:
        """Return where each adapter that is held is, by digest."""
        held: dict[str, Literal["device", "host"]] = dict.fromkeys(self._host.keys, "host")
        return held | dict.fromkeys(self._slots.resident, "device")

    def moves(self) -> list[tuple[str, str]]:
        """Return, once, which adapters came to the device (``load``) or left it (``evict``)."""
        return self._residency.moves()

    def cancel_all(self) -> None:
        """Take out every row, after a fault that nobody foresaw."""
        for row in [*self._scheduler.running, *self._scheduler.waiting]:
            cancel(row)
            self._scheduler.finish(row)
        for text in self._texts:
            text.error = ComputeError("was given up after a fault")
        self._texts = []
        self._passes.cancel_all()

    @property
    def pinned(self) -> frozenset[str]:
        """Digests of the adapters that are pinned."""
        return frozenset(self._pinned.values())

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return bool(
            self._scheduler.waiting
            or self._scheduler.running
            or self._passes.busy
            or self._texts
            or self._residency.fetching
        )

    def close(self) -> None:
        """Give the backbone back as it was."""
        self._residency.close()
        self._sites.close()
        self.backbone.base_model.config._attn_implementation = self._attention_before

    def _keep(self, key: str, name: str, prepare: Callable[[], Prepared]) -> None:
        self._residency.keep(key, self._host.get(key) or prepare())
        self._names[name] = key

    def _settle(self, user: Waiting, adapters: Rows[Prepared]) -> None:
        """Take the length of a row's prefix, and check that its adapters can serve it."""
        user.virtual = virtual_positions(adapters, [weight for _, weight in user.adapters])
        if isinstance(user, Sequence):
            self._check_room(user)
        elif isinstance(user, PoolingRequest):
            user.passes = tuple(
                self._passes.add(
                    example, user.adapters, reader, number=user.number, virtual=user.virtual
                )
                for example, reader in user.rows(adapters)
            )

    def _join_text(self, request: PoolingRequest) -> None:
        self._residency.join(request)
        if not request.settled:
            self._texts.append(request)

    def _drop_text(self, request: PoolingRequest, error: AdapterHubError) -> None:
        for each in request.passes:
            self._passes.drop(each, error)
        if not request.finished:
            request.error = error
        if request in self._texts:
            self._texts.remove(request)

    def _waiting(self) -> Iterable[Waiting]:
        """Return what waits for adapters, in the order of arrival."""
        texts: list[Waiting] = [*self._texts, *self._passes.firsts()]
        if not texts:
            return self._scheduler.waiting
        texts.sort(key=_number)
        return merge(texts, self._scheduler.waiting, key=_number)

    def _drop_lost(self) -> list[tuple[Sequence, Delta]]:
        """End what has adapters that can't be had; return the rows that generate."""
        told = []
        idle = not self._scheduler.running
        for user, error in self._residency.look_after(list(self._waiting()), idle=idle):
            if isinstance(user, Sequence):
                self._scheduler.finish(user)
                told.append((user, fail(user, error)))
            elif isinstance(user, PoolingRequest):
                self._drop_text(user, error)
            elif isinstance(user, PoolingSequence):
                self._passes.drop_all(user.adapters, error)
        self._texts = [text for text in self._texts if not text.settled]
        return told

    def _key(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        if self._arrivals is None:
            raise NotFoundError("is not loaded", place=name, hint=did_you_mean(name, self._names))
        return self._arrivals.resolve(name)

    def _sample(self, pieces: list[ScheduledChunk], hidden: Tensor) -> list[tuple[Sequence, Delta]]:
        ends = torch.tensor([piece.end - piece.start for piece in pieces]).cumsum(0) - 1
        ready = [i for i, piece in enumerate(pieces) if piece.end == piece.sequence.length]
        if not ready:
            return []
        rows = [pieces[i].sequence for i in ready]
        logits = self._forward.logits(hidden[ends[ready]], [row.blend or BARE for row in rows])
        deltas = next_tokens(self._sampler, logits, rows)
        for row in rows:
            if row.finished is not None:
                self._scheduler.finish(row)
        return list(zip(rows, deltas, strict=True))

    def _fail(self, pieces: list[ScheduledChunk], error: Exception) -> list[tuple[Sequence, Delta]]:
        _LOG.error("a step of %d rows failed: %s", len(pieces), error)
        problem = ComputeError(f"the step could not be computed: {error}")
        failed = []
        for piece in pieces:
            failed.append((piece.sequence, fail(piece.sequence, problem)))
            self._scheduler.finish(piece.sequence)
        return failed

    def _row(
        self,
        ready: PreparedPrompt,
        index: int,
        keys: tuple[tuple[str, float], ...],
        seed: int,
    ) -> Sequence:
        state = SamplingState(
            ready.params,
            ready.tokens,
            eos_ids=self.prompt_processor.end_ids,
            seed=seed,
            index=index,
        )
        return Sequence(
            self._next_number(),
            ready.tokens,
            state,
            keys,
            stream=ready.streams[index],
            constraint=ready.constraints[index],
        )

    def _next_number(self) -> int:
        self._arrived += 1
        return self._arrived

    def _check_room(self, row: Sequence) -> None:
        prompt, answer = row.virtual + len(row.prompt), row.state.params.max_tokens
        room = self.settings.kv_cache_tokens
        if prompt + answer > room:
            raise RequestError(
                f"{prompt} positions of prompt and {answer} of answer do not fit into the "
                f"{room} positions of the cache",
                place="prompt",
                hint="Shorten it, ask for fewer max_tokens, or start with more kv_cache_tokens",
            )

    def _keys(self, adapters: Adapters) -> tuple[tuple[str, float], ...]:
        named = [(adapters, 1.0)] if isinstance(adapters, str) else list(adapters or ())
        return tuple((self._key(name), float(weight)) for name, weight in named)


def _number(user: Waiting) -> int:
    return user.number
