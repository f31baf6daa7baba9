"""One frozen backbone and many adapters: rows that generate, are labelled or embedded."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.skeleton import check_prefix_fits
from adapterhub.data.packing import Example
from adapterhub.engine.answers import cancel, fail, next_tokens
from adapterhub.engine.attention import (
    PAGED_NAME,
    PagedBatch,
    PagedRow,
    install_paged_attention,
    paged_batch,
)
from adapterhub.engine.blocks import Blocks
from adapterhub.engine.cache import KeyValueCache, cache_shape
from adapterhub.engine.decoder import FastDecoder, can_run
from adapterhub.engine.factors import lora_factors, prepared_size
from adapterhub.engine.families import capped, check_served
from adapterhub.engine.graphs import decode_graphs, replay
from adapterhub.engine.host_tier import HostTier
from adapterhub.engine.passes import SinglePasses, Wish
from adapterhub.engine.prefixes import PrefixStates, prefix_states
from adapterhub.engine.requests import PreparedPrompt, PromptReader, Request, request_seed
from adapterhub.engine.residency import Residency
from adapterhub.engine.results import Answer, Completion, EngineStats
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.sampling.sampler import Sampler
from adapterhub.engine.sampling.state import SamplingState
from adapterhub.engine.scheduler import Scheduler
from adapterhub.engine.sequences import Sequence
from adapterhub.engine.session import task_of
from adapterhub.engine.settings import EngineSettings
from adapterhub.engine.sites import make_sites
from adapterhub.engine.slots import BARE, AdapterSlots, LoraFactors
from adapterhub.engine.sources import AdapterSource, Arrivals
from adapterhub.engine.step import Step, current_step, running
from adapterhub.engine.texts import Labeller, one_each
from adapterhub.errors import (
    AdapterHubError,
    ComputeError,
    EngineError,
    NotFoundError,
    RequestError,
    near,
)
from adapterhub.kernels.choice import choose_kernel
from adapterhub.specs import PrefixSpec
from adapterhub.weights import AdapterWeights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Rows

    from torch import Tensor

    from adapterhub.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.passes import PassRequest, Pooling
    from adapterhub.engine.results import Delta
    from adapterhub.engine.scheduler import Piece
    from adapterhub.engine.slots import Blend
    from adapterhub.engine.texts import Each, HeadName, LabelRequest
    from adapterhub.kernels.lora_rows import LoraKernel
    from adapterhub.tasks.base import Task


_LOG = logging.getLogger(__name__)

#: Longest wait of a step, in seconds, that has nothing to compute until an adapter comes.
IDLE_SECONDS = 0.005
#: A name, names with weights, or none for the bare backbone.
Adapters: TypeAlias = "str | Rows[tuple[str, float]] | None"


class Engine:
    """Continuous batching over mixed adapters. Not safe for use from several threads.

    The backbone belongs to the engine until ``close``.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: EngineSettings | None = None,
        *,
        kernel: LoraKernel | None = None,
        source: AdapterSource | None = None,
    ) -> None:
        """Build an engine around a decoder, or around an encoder, which does not generate.

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
        # a tokenizer changes its settings while it works, and that of prompts is used by others
        self._labelling = replace(backbone, tokenizer=deepcopy(backbone.tokenizer))
        self.settings = settings or EngineSettings()
        dtype = torch_dtype(backbone.quantization.compute_dtype)
        install_paged_attention()
        self._attention_before = backbone.body.config._attn_implementation
        backbone.body.config._attn_implementation = PAGED_NAME
        kernel = kernel or choose_kernel(backbone.device.type)
        self._sites = make_sites(backbone, dtype, kernel)
        self._head = self._sites.output
        self._slots = AdapterSlots(
            list(self._sites.pairs.values()),
            self.settings.rank_rows,
            backbone.device,
            list(self._sites.norms.values()),
        )
        self._host = HostTier(self.settings.host_bytes)
        self._arrivals = (
            Arrivals(source, self._host, self._size, self._made_ready) if source else None
        )
        self._residency = Residency(
            self._slots,
            self._host,
            self._arrivals,
            self._settle,
            look_ahead=self.settings.look_ahead,
            copy_bytes=self.settings.copy_bytes,
        )
        self._passes = SinglePasses(backbone, self._residency, tokens=self.settings.pass_tokens)
        self._labeller = Labeller(backbone)
        self._fast = FastDecoder(backbone.body) if can_run(backbone.body, dtype) else None
        layers, heads, width = cache_shape(backbone.config)
        size = self.settings.block_size
        # an encoder keeps no keys and values
        count = -(-self.settings.cache_positions // size) if self._head is not None else 0
        self._cache = KeyValueCache(
            layers=layers,
            heads=heads,
            width=width,
            # the last one belongs to the inert rows of captured steps
            blocks=count + bool(count),
            block_size=size,
            dtype=dtype,
            device=backbone.device,
        )
        self._graphs = decode_graphs(
            backbone.config, self._cache, len(self._sites.linear), kernel, self._body, self.settings
        )
        self._blocks = Blocks(count, size)
        self._scheduler = Scheduler(
            self._blocks,
            self._residency,
            self._fill_prefix,
            max_rows=self.settings.max_rows,
            step_tokens=self.settings.step_tokens,
            look_ahead=self.settings.look_ahead,
            max_overtakes=self.settings.max_overtakes,
        )
        self.reader = PromptReader(backbone)
        self._sampler = Sampler()
        self._names: dict[str, str] = {}
        self._pinned: dict[str, str] = {}
        self._arrived = 0
        self._steps = 0
        self._computed = 0

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
        check_fingerprint(
            self.backbone.fingerprint, name, artifact.manifest.backbone.fingerprint, force=force
        )
        task = task_of(artifact.manifest, self._labelling)
        self.load_weights(artifact.weights, key=artifact.digest, name=name, task=task)

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
        held = self._host.get(key)
        ready = self._prepared(weights, key, name, task) if held is None else held
        self._residency.keep(key, ready)
        self._names[name] = key

    def unload(self, name: str) -> None:
        """Forget a name, and its adapter where no other name stands for it.

        Raises:
            NotFoundError: when there is no such name.
            EngineError: when rows use it.
        """
        if name not in self._names:
            raise NotFoundError("is not loaded", place=name, hint=near(name, self._names))
        key = self._names[name]
        if list(self._names.values()).count(key) == 1:
            self._residency.forget(key)
            self._labeller.forget(key)
        del self._names[name]

    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Keep an adapter in host memory, and on the device once it is there; or no longer.

        A pin is for what the name means now, also when it means another version later on.

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
            prompt: text, tokenized as it stands, token ids, or what ``reader`` made of them.
            adapters: a name, names with weights, or ``None`` for the bare backbone. A name is
                that of a loaded adapter, or any reference that the source knows: it means what
                it means now, and the request waits until that has come. Where it can't come or
                can't be served, the request ends with the error.
            params: settings, unless ``prompt`` has them; the defaults where not given.

        Raises:
            NotFoundError: when there is no adapter of that name.
            RequestError: when the prompt can't be read, or can never fit into the cache.
            EngineError: when the adapters can't be used together, or the backbone is an encoder.
        """
        if self._head is None:
            raise EngineError("does not generate text", place=self.backbone.name)
        ready = (
            prompt
            if isinstance(prompt, PreparedPrompt)
            else self.reader.read(prompt, params or SamplingParams())
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

    def cancel(self, request: Request) -> None:
        """Take a request's rows out before the next step."""
        for row in request.rows:
            if row.finished is None:
                cancel(row)
                self._scheduler.finish(row)

    def generate(
        self,
        prompts: Rows[str | Rows[int]],
        adapters: Rows[Adapters],
        params: SamplingParams | Rows[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Answer prompts, each with its own adapter, and wait for all of them.

        Args:
            prompts: text or token ids.
            adapters: of each prompt, as in ``add``.
            params: settings of all prompts, or of each.

        Returns:
            One completion a prompt. One that fails has an ``error``, and disturbs no other.

        Raises:
            ValueError: when the arguments have different lengths.
        """
        each = (
            [params] * len(prompts)
            if params is None or isinstance(params, SamplingParams)
            else params
        )
        asked = [self._try_add(*one) for one in zip(prompts, adapters, each, strict=True)]
        while self.busy:
            self.step()
        return [one.completion() if isinstance(one, Request) else one for one in asked]

    def ask(
        self,
        text: str | Mapping[str, Any],
        adapters: Adapters,
        *,
        kind: HeadName = "sequence",
    ) -> LabelRequest:
        """Let a text be labelled in the next passes.

        Args:
            text: itself, or a row with the fields of the adapter's task.
            adapters: a name, or names with weights; one of them has a head.
            kind: ``sequence`` for one label, ``token`` for spans.

        Raises:
            NotFoundError: when there is no adapter of that name.
            EngineError: when none of them, or more than one, has a head of that kind.
            DataError: when the text can't be used.
        """
        keys = self._keys(adapters)
        self._check_together(keys)
        return self._labeller.ask(text, keys, kind, self._passes)

    def ask_embedding(
        self,
        text: str | Rows[int],
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> PassRequest:
        """Let a text be embedded in one of the next passes.

        Args:
            text: itself, or its token ids.
            adapters: a name, names with weights, or ``None`` for the bare backbone.
            pooling: the mean of all tokens, or the last token.
            normalize: to length 1.

        Raises:
            NotFoundError: when there is no adapter of that name.
        """
        keys = self._keys(adapters)
        self._check_together(keys)
        ids = self.backbone.tokenizer(text)["input_ids"] if isinstance(text, str) else list(text)
        return self._passes.add(Example(1, ids, ()), keys, Wish(pooling, normalize))

    def classify(
        self, texts: Rows[str | Mapping[str, Any]], adapters: Each
    ) -> list[dict[str, Any]]:
        """Return a label for each text: ``{"label", "score", "scores"}``.

        Args:
            texts: themselves, or rows with ``text`` and maybe ``text_pair``.
            adapters: one for each text, or a name for all.

        Raises:
            AdapterHubError: of the first text that could not be labelled, after all others are.
        """
        return self._label(texts, adapters, "sequence")

    def tag(self, texts: Rows[str | Mapping[str, Any]], adapters: Each) -> list[dict[str, Any]]:
        """Return the spans of each text: ``{"spans": [{"label", "start", "end", ...}]}``.

        Args:
            texts: themselves, or rows with ``text`` or ``tokens``; long ones are read in parts.
            adapters: one for each text, or a name for all.

        Raises:
            AdapterHubError: of the first text that could not be labelled, after all others are.
        """
        return self._label(texts, adapters, "token")

    def embed(
        self,
        texts: Rows[str],
        adapters: Each | None = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> Tensor:
        """Return a vector for each text, ``[texts, hidden]`` in float32 on the CPU.

        Args:
            texts: at least one.
            adapters: one for each text, a name for all, or ``None`` for the bare backbone.
            pooling: the mean of all tokens, or the last token.
            normalize: to length 1.

        Raises:
            EngineError: of the first text that could not be embedded, after all others are.
        """
        asked = [
            self.ask_embedding(text, adapter, pooling=pooling, normalize=normalize)
            for text, adapter in one_each(texts, adapters)
        ]
        self._run(asked)
        return torch.stack([request.value() for request in asked])

    def _label(
        self, texts: Rows[str | Mapping[str, Any]], adapters: Each, kind: HeadName
    ) -> list[dict[str, Any]]:
        asked = [self.ask(text, each or (), kind=kind) for text, each in one_each(texts, adapters)]
        self._run(asked)
        return [request.answer() for request in asked]

    def _run(self, asked: Rows[PassRequest | LabelRequest]) -> None:
        while not all(request.finished for request in asked):
            self.step()

    def step(self) -> list[tuple[Sequence, Delta]]:
        """Compute one step; return the rows that have something new, and what it is.

        Rows that wait to be labelled or embedded go first, a batch of them: they hold nothing
        afterwards, so those that generate wait for one pass and no longer. A step that the device
        can't compute ends the rows that take part in it by an error.
        """
        lost = self._drop_lost()
        self._passes.step(alone=not self._scheduler.running)
        pieces = self._scheduler.plan()
        if not pieces:
            if self._scheduler.waiting:
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
            cache_bytes=self._cache.nbytes,
        )

    def places(self) -> dict[str, Literal["device", "host"]]:
        """Return where each adapter that is held is, by digest."""
        held: dict[str, Literal["device", "host"]] = dict.fromkeys(self._host.keys, "host")
        return held | dict.fromkeys(self._slots.resident, "device")

    def moves(self) -> list[tuple[str, str]]:
        """Return, once, which adapters came to the device (``load``) or left it (``evict``)."""
        return self._residency.moves()

    def abandon(self) -> None:
        """Take out every row, after a fault that nobody foresaw."""
        for row in [*self._scheduler.running, *self._scheduler.waiting]:
            cancel(row)
            self._scheduler.finish(row)
        self._passes.abandon()

    @property
    def pinned(self) -> frozenset[str]:
        """Digests of the adapters that are pinned."""
        return frozenset(self._pinned.values())

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return bool(self._scheduler.waiting or self._scheduler.running or self._passes.busy)

    def close(self) -> None:
        """Give the backbone back as it was."""
        self._residency.close()
        self._sites.close()
        self.backbone.body.config._attn_implementation = self._attention_before

    def _prepared(
        self, weights: AdapterWeights, key: str, name: str, task: Task | None
    ) -> LoraFactors | PrefixStates:
        keys = self._labeller.take(weights, task, key=key, name=name)
        if isinstance(weights.spec, PrefixSpec):
            check_prefix_fits(self.backbone.kind, self.backbone.name)
            dtype = torch_dtype(self.backbone.quantization.compute_dtype)
            rest = {each: tensor for each, tensor in weights.tensors.items() if each not in keys}
            alone = AdapterWeights(weights.spec, rest)
            return prefix_states(alone, cache_shape(self.backbone.config), dtype, name=name)
        return lora_factors(weights, self._sites, self._body_name(), name=name, others=keys)

    def _made_ready(self, artifact: Artifact) -> LoraFactors | PrefixStates:
        """Check and convert an adapter; called on a background thread."""
        name = artifact.digest
        expected = artifact.manifest.backbone.fingerprint
        check_fingerprint(self.backbone.fingerprint, name, expected)
        # no head: an adapter that labels has to be loaded, and is refused here for its head
        return self._prepared(artifact.weights, name, name, None)

    def _size(self, artifact: Artifact) -> int:
        """Return the bytes of host memory that an adapter will take."""
        dtype = torch_dtype(self.backbone.quantization.compute_dtype)
        return prepared_size(artifact.weights, dtype)

    def _settle(self, row: Sequence, adapters: Rows[LoraFactors | PrefixStates]) -> None:
        """Take the length of a row's prefix, and check that its adapters go together."""
        row.virtual = _virtual([(a, w) for a, (_, w) in zip(adapters, row.adapters, strict=True)])
        self._check_room(row)

    def _check_together(self, keys: Rows[tuple[str, float]]) -> None:
        """Require that the adapters of a pass are held, and go together."""
        held = [(self._host.get(key), weight) for key, weight in keys]
        for (key, _), (adapter, _) in zip(keys, held, strict=True):
            if adapter is None:
                raise EngineError(
                    "is not in memory", place=key, hint="Load it; only text is made by reference"
                )
        _virtual([(adapter, weight) for adapter, weight in held if adapter is not None])

    def _drop_lost(self) -> list[tuple[Sequence, Delta]]:
        """End the rows whose adapters can't be had."""
        lost = self._residency.look_after(self._scheduler.waiting, idle=not self._scheduler.running)
        for row, _ in lost:
            self._scheduler.finish(row)
        return [(row, fail(row, error)) for row, error in lost]

    def _fill_prefix(self, sequence: Sequence, start: int, end: int) -> None:
        size = self.settings.block_size
        places = torch.tensor(
            [sequence.blocks[p // size] * size + p % size for p in range(start, end)],
            device=self.backbone.device,
        )
        for prefix in self._residency.prefixes(sequence):
            for layer in range(len(prefix.keys)):
                keys, values = prefix.keys[layer][start:end], prefix.values[layer][start:end]
                self._cache.write(layer, places, keys, values)

    def _key(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        if self._arrivals is None:
            raise NotFoundError("is not loaded", place=name, hint=near(name, self._names))
        return self._arrivals.resolve(name)

    def _body_name(self) -> str:
        return str(self.backbone.body.base_model_prefix or "model")

    def _forward(self, pieces: list[Piece]) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]`` of all pieces."""
        ids = [id_ for p in pieces for id_ in p.sequence.tokens(p.start, p.end)]
        positions = [position for p in pieces for position in range(p.start, p.end)]
        device = self.backbone.device
        uses = [(p.end - p.start, p.sequence.blend or BARE) for p in pieces]
        step = Step(uses)
        # a graph has no hooks of embeddings and norm layers in it
        graphs = None if any(step.plan(site) for site in self._sites.hooked) else self._graphs
        replayed = replay(graphs, pieces, step, self._residency)
        if replayed is not None:
            return replayed
        id_row = torch.tensor([ids], device=device)
        position_row = torch.tensor([positions], device=device)
        paged = self._paged(pieces)
        with torch.no_grad(), running(step):
            return self._body(id_row, position_row, paged)

    def _body(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]`` for ids ``[1, tokens]``."""
        step = current_step()
        # norm layers of adapters are in transformers' own modules
        if self._fast is not None and not (step is not None and step.norms):
            return self._fast(ids, positions, paged)
        output = self.backbone.body(
            input_ids=ids,
            position_ids=positions,
            # a ready mask is passed on as it is; paged attention has its own
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
            paged=paged,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _paged(self, pieces: list[Piece]) -> PagedBatch:
        rows, start, size = [], 0, self.settings.block_size
        offsets = torch.arange(size)
        for piece in pieces:
            blocks = torch.tensor(piece.sequence.blocks)
            places = (blocks.unsqueeze(1) * size + offsets).flatten()[: piece.end]
            count = piece.end - piece.start
            rows.append(PagedRow(start, count, piece.end, places.to(self.backbone.device)))
            start += count
        return paged_batch(self._cache, rows)

    def _sample(self, pieces: list[Piece], hidden: Tensor) -> list[tuple[Sequence, Delta]]:
        ends = torch.tensor([piece.end - piece.start for piece in pieces]).cumsum(0) - 1
        ready = [i for i, piece in enumerate(pieces) if piece.end == piece.sequence.length]
        if not ready:
            return []
        rows = [pieces[i].sequence for i in ready]
        logits = self._logits(hidden[ends[ready]], [row.blend or BARE for row in rows])
        deltas = next_tokens(self._sampler, logits, rows)
        for row in rows:
            if row.finished is not None:
                self._scheduler.finish(row)
        return list(zip(rows, deltas, strict=True))

    def _logits(self, hidden: Tensor, blends: list[Blend]) -> Tensor:
        """Return the vocabulary's logits at positions ``[n, hidden]``, each with its adapters."""
        if self._head is None:
            raise EngineError("does not generate text", place=self.backbone.name)
        with torch.no_grad(), running(Step([(1, blend) for blend in blends])):
            return capped(self._head(hidden), self.backbone.config)

    def _fail(self, pieces: list[Piece], error: Exception) -> list[tuple[Sequence, Delta]]:
        _LOG.error("a step of %d rows failed: %s", len(pieces), error)
        problem = ComputeError(f"the step could not be computed: {error}")
        failed = []
        for piece in pieces:
            failed.append((piece.sequence, fail(piece.sequence, problem)))
            self._scheduler.finish(piece.sequence)
        return failed

    def _try_add(
        self, prompt: str | Rows[int], adapters: Adapters, params: SamplingParams | None
    ) -> Request | Completion:
        try:
            return self.add(prompt, adapters, params)
        except AdapterHubError as error:
            count = (params or SamplingParams()).n
            return Completion((Answer((), "", "error", error=error),) * count, 0, 0)

    def _row(
        self,
        ready: PreparedPrompt,
        index: int,
        keys: tuple[tuple[str, float], ...],
        seed: int,
    ) -> Sequence:
        state = SamplingState(
            ready.params, ready.tokens, eos_ids=self.reader.end_ids, seed=seed, index=index
        )
        self._arrived += 1
        return Sequence(
            self._arrived,
            ready.tokens,
            state,
            keys,
            stream=ready.streams[index],
            constraint=ready.constraints[index],
        )

    def _check_room(self, row: Sequence) -> None:
        prompt, answer = row.virtual + len(row.prompt), row.state.params.max_tokens
        room = self.settings.cache_positions
        if prompt + answer > room:
            raise RequestError(
                f"{prompt} positions of prompt and {answer} of answer do not fit into the "
                f"{room} positions of the cache",
                place="prompt",
                hint="Shorten it, ask for fewer max_tokens, or start with more cache_positions",
            )

    def _keys(self, adapters: Adapters) -> tuple[tuple[str, float], ...]:
        named = [(adapters, 1.0)] if isinstance(adapters, str) else list(adapters or ())
        return tuple((self._key(name), float(weight)) for name, weight in named)


def _virtual(adapters: Rows[tuple[LoraFactors | PrefixStates, float]]) -> int:
    """Return the length of the prefix among a row's adapters, 0 where there is none."""
    prefixes = [(each, weight) for each, weight in adapters if isinstance(each, PrefixStates)]
    for each, weight in adapters:
        if isinstance(each, LoraFactors) and (len(adapters) > 1 or weight != 1.0):
            _check_can_blend(each)
    if len(prefixes) > 1 or any(weight != 1.0 for _, weight in prefixes):
        raise EngineError(
            "a row takes one prefix, with weight 1",
            place="adapters",
            hint="Concatenate prefixes beforehand; LoRA adapters may be blended beside one",
        )
    return prefixes[0][0].length if prefixes else 0


def _check_can_blend(factors: LoraFactors) -> None:
    if factors.gains:
        problem = "DoRA multiplies the backbone's own output and can't be blended"
    elif factors.norms:
        problem = "replaces norm layers of the backbone and can't be blended"
    else:
        return
    raise EngineError(problem, place="adapters", hint="Ask for it alone, with weight 1")
