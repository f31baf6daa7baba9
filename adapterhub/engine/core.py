"""The engine's core: one queue of requests, and the steps that compute them."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.head_construction import build_head, language_head
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.adapted_layers import adapt_layers
from adapterhub.engine.adapter_fetcher import AdapterFetcher
from adapterhub.engine.adapter_manager import AdapterManager
from adapterhub.engine.adapter_preparation import AdapterPreparer, num_virtual_tokens
from adapterhub.engine.adapter_slots import AdapterSlots
from adapterhub.engine.answer_rules import apply_rules
from adapterhub.engine.block_pool import BlockPool
from adapterhub.engine.compiled_output import StepLogits
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.host_cache import HostCache
from adapterhub.engine.model_runner import ModelRunner
from adapterhub.engine.output_step import OutputStep
from adapterhub.engine.outputs import EngineStats
from adapterhub.engine.padded_generation import PaddedRunner
from adapterhub.engine.padded_groups import GroupRules, PaddedGroups
from adapterhub.engine.pair_scoring import PairScorer
from adapterhub.engine.pooling import PoolingRunner
from adapterhub.engine.pooling_requests import PoolingRequest
from adapterhub.engine.prepared_adapter import LoraFactors, PromptEmbeddings
from adapterhub.engine.prompts import unknown_token
from adapterhub.engine.sampling.sampler import SampledToken, Sampler
from adapterhub.engine.scheduler import Scheduler
from adapterhub.engine.sequences import Sequence, first_active
from adapterhub.errors import (
    AdapterHubError,
    ComputeError,
    EngineError,
    RequestError,
    UntraceableInputError,
)
from adapterhub.kernels.attention.kv_cache import KeyValueCache, cache_shape
from adapterhub.kernels.choice import choose_lora_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf
    from concurrent.futures import Future

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.forward_paths import ForwardPaths
    from adapterhub.engine.adapter_fetcher import AdapterSource
    from adapterhub.engine.adapter_manager import AdapterUser
    from adapterhub.engine.outputs import CompletionDelta
    from adapterhub.engine.padded_groups import PaddedGroup
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.engine.scheduler import ScheduledChunk
    from adapterhub.engine.sequences import Request
    from adapterhub.engine.tokenizer_thread import TokenizerThread
    from adapterhub.kernels.lora.plan import LoraKernel

_LOG = logging.getLogger(__name__)

#: Longest wait in seconds of a step that has nothing to compute until an adapter is fetched.
IDLE_SECONDS = 0.005


class EngineCore:
    """Schedules and computes the requests of one backbone, step by step."""

    def __init__(
        self,
        backbone: Backbone,
        config: EngineConfig | None = None,
        *,
        kernel: LoraKernel | None = None,
        source: AdapterSource | None = None,
    ) -> None:
        self.backbone = backbone
        self.config = config = config or EngineConfig()
        self._vocab_size = int(getattr(backbone.config.get_text_config(), "vocab_size", 0) or 0)
        # both see the backbone before its layers are adapted
        paths = forward_paths(backbone)
        language = language_head(backbone)
        head = None if language is None else build_head(backbone, language, ())
        kernel = kernel or choose_lora_kernel(backbone.device.type)
        dtype = torch_dtype(backbone.quantization.compute_dtype)
        self.layers = adapt_layers(backbone, dtype, kernel)
        self.preparer = AdapterPreparer(backbone, self.layers)
        self.slots = AdapterSlots(self.layers.all, config.rank_slots, backbone.device)
        self.host = HostCache(config.host_cache_bytes)
        self.fetcher: AdapterFetcher | None = None
        if source is not None:
            size, prepare = self.preparer.size, self.preparer.artifact
            self.fetcher = AdapterFetcher(source, self.host, size, prepare)
        self.adapters = AdapterManager(config, self.slots, self.host, self.fetcher, self._validate)
        #: whether sequences whose adapters allow it are generated on the fast path
        self.paged = head is not None and config.forward_path == "auto" and paths.paged
        cache, num_blocks = _kv_cache(backbone, config, paged=self.paged)
        self.blocks = BlockPool(num_blocks, config.block_size)
        output = None if head is None else OutputStep(head, backbone.lm_head, self.layers.output)
        self.model_runner = ModelRunner(
            backbone, self.layers, output, cache, self.adapters, kernel, config
        )
        self.padded_runner = None
        if output is not None:
            self.padded_runner = PaddedRunner(backbone, output.model, self.adapters)
        self.padded = PaddedGroups(_rules(paths, self.padded_runner), config.kv_cache_tokens)
        if config.forward_path == "padded":
            paths = replace(paths, packed=False)
        pairs = None
        if head is not None and (backbone.kind == "encoder-decoder" or backbone.transcribes):
            pairs = PairScorer(backbone, head, paths, config.max_pooling_tokens)
        self.pooling_runner = PoolingRunner(
            backbone,
            self.adapters,
            self.model_runner.logits,
            paths,
            config.max_pooling_tokens,
            pairs,
        )
        self.scheduler = Scheduler(
            config, self.blocks, self.adapters, self.model_runner.fill_prefix, self.padded
        )
        self.sampler = Sampler()
        #: thread that tokenizes what is labelled; without one, requests are tokenized when added
        self.tokenizer: TokenizerThread | None = None
        self._encodings: set[Future[None]] = set()
        self._num_steps = self._num_computed_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether a request is waiting or running, or a pinned adapter is being fetched."""
        scheduler = self.scheduler
        return bool(
            scheduler.waiting
            or scheduler.running
            or self.padded.groups
            or self.adapters.fetching_pinned
        )

    def add(self, sequences: SequenceOf[Sequence]) -> None:
        """Add the sequences of a request to the waiting queue, all of them or none."""
        for sequence in sequences:
            self.adapters.admit(sequence)
            self._check_fits(sequence)
        for sequence in sequences:
            self.scheduler.waiting.add(sequence)

    def add_pooling(self, request: PoolingRequest) -> None:
        """Add a pooling request to the waiting queue."""
        self.adapters.admit(request)
        if not request.finished:
            self.scheduler.waiting.add(request)

    def cancel(self, request: Request | PoolingRequest) -> None:
        """Cancel a request before the next step."""
        if isinstance(request, PoolingRequest):
            self._fail_pooling(request, EngineError("was cancelled"))
            return
        for sequence in request.sequences:
            if sequence.finish_reason is None:
                sequence.cancel()
                self.scheduler.finish(sequence)

    def cancel_all(self) -> None:
        """Cancel every request, after an unexpected fault."""
        waiting = self.scheduler.waiting.sequences()
        for sequence in [*self.scheduler.running, *self.padded.sequences, *waiting]:
            sequence.cancel()
            self.scheduler.finish(sequence)
        for request in list(self.scheduler.waiting.pooling()):
            self._fail_pooling(request, ComputeError("was cancelled after a fault"))

    def step(self) -> list[tuple[Sequence, CompletionDelta]]:
        """Compute one step; return the sequences that have something new, and what it is.

        Pooling requests go first, a batch of them: they hold no resources afterwards, so
        generating sequences wait for one forward pass at most. If the device cannot compute the
        step, its sequences end with an error.
        """
        deltas = self._fail_unavailable()
        pooled = self.scheduler.schedule_pooling()
        try:
            self.pooling_runner(pooled)
        finally:
            self.scheduler.finish_pooling(pooled)
        chunks = self.scheduler.schedule()
        deltas += self._step_groups()
        if not chunks:
            if self.busy and not pooled and not self.padded.groups:
                self._wait()
            return deltas
        try:
            hidden = self.model_runner(chunks)
        except (RuntimeError, MemoryError) as error:
            return deltas + self._fail_step(chunks, error)
        return deltas + self._postprocess(chunks, hidden)

    def stats(self) -> EngineStats:
        """Return counters and the current load."""
        return EngineStats(
            steps=self._num_steps,
            computed_tokens=self._num_computed_tokens,
            preemptions=self.scheduler.preemptions,
            loads=self.adapters.device.loads,
            evictions=self.adapters.device.evictions,
            pooled=self.pooling_runner.num_computed,
            running=self.scheduler.num_running,
            waiting=len(self.scheduler.waiting),
            resident=len(self.slots.resident),
            free_rank_slots=self.slots.free,
            fetches=self.fetcher.fetches if self.fetcher is not None else 0,
            host_adapters=len(self.host.keys),
            host_bytes=self.host.nbytes,
            free_blocks=self._free_blocks,
            cache_bytes=self.model_runner.cache.nbytes + self.padded.nbytes,
        )

    def close(self) -> None:
        """Restore the backbone."""
        if self.fetcher is not None:
            self.fetcher.close()
        self.layers.close()

    def _wait(self) -> None:
        """Wait until a text is tokenized or an adapter is fetched, for a short time."""
        if self._encodings:
            wait(self._encodings, IDLE_SECONDS, FIRST_COMPLETED)
        elif self.fetcher is not None:
            self.fetcher.wait(IDLE_SECONDS)

    def _validate(self, request: AdapterUser, adapters: SequenceOf[PreparedAdapter]) -> bool:
        """Check that the adapters can serve a request, and set what depends on them.

        Returns:
            Whether the request can be computed; ``False`` while its text is tokenized.
        """
        weights = [weight for _, weight in request.adapters]
        request.num_virtual_tokens = num_virtual_tokens(adapters, weights)
        reads_head = isinstance(request, PoolingRequest) and request.reads_head
        self.preparer.effects.check_use(request.adapters, adapters, reads_head=reads_head)
        if isinstance(request, Sequence):
            self._set_path(request, adapters)
            self._check_fits(request)
        elif isinstance(request, PoolingRequest):
            return self._encode(request, adapters)
        return True

    def _encode(self, request: PoolingRequest, adapters: SequenceOf[PreparedAdapter]) -> bool:
        """Tokenize the item of a request; return whether that is done."""
        if request.encoding is None:
            request.select_head(adapters)
            encode = partial(request.encode, adapters, self.pooling_runner.max_length)
            if self.tokenizer is None or not request.size:
                encode()
                return True
            request.encoding = self.tokenizer.submit(request.size, encode)
            self._encodings.add(request.encoding)
        if not request.encoding.done():
            return False
        self._encodings.discard(request.encoding)
        error = request.encoding.exception()
        if error is None:
            return True
        if not isinstance(error, AdapterHubError):
            _LOG.error("a text could not be tokenized", exc_info=error)
            error = RequestError("could not be tokenized", place="text")
        # other requests for the same adapters are not at fault
        self._fail_pooling(request, error)
        return False

    def _set_path(self, sequence: Sequence, adapters: SequenceOf[PreparedAdapter]) -> None:
        """Set how the adapters of a sequence, which are used alone or only add, are computed."""
        sequence.exclusive = any(adapter.exclusive for adapter in adapters)
        embedded = any(isinstance(adapter, PromptEmbeddings) for adapter in adapters)
        sequence.padded = sequence.exclusive or embedded or not self.paged
        lora = [adapter for adapter in adapters if isinstance(adapter, LoraFactors)]
        invocation = next((each.invocation for each in lora if each.invocation), ())
        sequence.active_from = first_active(sequence.prompt, invocation)
        sequence.vocab_size = next((each.vocab_size for each in lora if each.vocab_size), None)
        if sequence.media is not None:
            # the decoder reads the prompt, and the encoder the recording
            sequence.decoder_prompt = sequence.prompt
        elif self.padded_runner is not None and self.backbone.kind == "encoder-decoder":
            frames = (sequence.target_frame, *(each.target_frame for each in lora))
            frame = next((each for each in frames if each is not None), None)
            sequence.decoder_prompt = self.padded_runner.decoder_prompt(frame)
            sequence.rules = self.padded_runner.rules(sequence)

    def _check_fits(self, sequence: Sequence) -> None:
        largest, size = max(sequence.prompt), sequence.vocab_size or self._vocab_size
        if largest >= size:
            raise unknown_token(largest)
        prompt = sequence.num_virtual_tokens + sequence.num_source_positions + len(sequence.prompt)
        answer, capacity = sequence.state.params.max_tokens, self.config.kv_cache_tokens
        if prompt + answer > capacity:
            raise RequestError(
                f"{prompt} tokens of prompt and up to {answer} of answer do not fit into the "
                f"KV cache of {capacity} tokens",
                place="prompt",
                hint="Shorten it, lower max_tokens, or start with more kv_cache_tokens",
            )

    @property
    def _free_blocks(self) -> int:
        """Free blocks of the KV cache; on the padded path the free tokens in that unit."""
        return self.blocks.free if self.paged else self.padded.free_tokens // self.blocks.size

    def _fail_unavailable(self) -> list[tuple[Sequence, CompletionDelta]]:
        """End the requests whose adapters are unavailable; return the generating ones."""
        deltas = []
        waiting, idle = self.scheduler.waiting, not self.scheduler.num_running
        for request, error in self.adapters.poll(waiting.needing_adapters(), idle=idle):
            if isinstance(request, Sequence):
                self.scheduler.finish(request)
                deltas.append((request, request.fail(error)))
                continue
            for other in list(waiting.pooling()):
                if other is request or (other.validated and other.adapters == request.adapters):
                    self._fail_pooling(other, error)
        return deltas

    def _fail_pooling(self, request: PoolingRequest, error: AdapterHubError) -> None:
        if request.encoding is not None:
            request.encoding.cancel()
            self._encodings.discard(request.encoding)
        request.fail(error)
        self.scheduler.waiting.remove(request)

    def _fail_step(
        self, chunks: list[ScheduledChunk], error: Exception
    ) -> list[tuple[Sequence, CompletionDelta]]:
        _LOG.error("a step of %d sequences failed: %s", len(chunks), error)
        problem = ComputeError(f"the step could not be computed: {error}")
        for chunk in chunks:
            self.scheduler.finish(chunk.sequence)
        return [(chunk.sequence, chunk.sequence.fail(problem)) for chunk in chunks]

    def _postprocess(
        self, chunks: list[ScheduledChunk], hidden: Tensor
    ) -> list[tuple[Sequence, CompletionDelta]]:
        """Sample a token for every sequence that is computed to its end."""
        self._num_steps += 1
        self._num_computed_tokens += len(hidden)
        for chunk in chunks:
            self.scheduler.computed(chunk)
        ends = list(accumulate(chunk.num_tokens for chunk in chunks))
        samples = [index for index, chunk in enumerate(chunks) if chunk.samples]
        if not samples:
            return []
        sequences = [chunks[index].sequence for index in samples]
        blends = [each.runs(each.length - 1, each.length)[0][1] for each in sequences]
        if len(samples) < len(hidden):
            hidden = hidden[[ends[index] - 1 for index in samples]]
        return self._sample(sequences, self.model_runner.step_logits(hidden, blends))

    def _sample(
        self, sequences: list[Sequence], found: StepLogits
    ) -> list[tuple[Sequence, CompletionDelta]]:
        """Append a token to each sequence; end those that are finished."""
        for sequence in sequences:
            sequence.set_allowed_tokens()
        if any(sequence.rules is not None for sequence in sequences):
            found = StepLogits(apply_rules(sequences, found.logits))
        if any(sequence.vocab_size for sequence in sequences):
            found = StepLogits(self._without_others(sequences, found.logits))
        states = [sequence.state for sequence in sequences]
        sampled = self.sampler.sample(found.logits, states, found.best)
        deltas = [(s, s.append(each)) for s, each in zip(sequences, sampled, strict=True)]
        for sequence in sequences:
            if sequence.finish_reason is not None:
                self.scheduler.finish(sequence)
        return deltas

    def _without_others(self, sequences: list[Sequence], logits: Tensor) -> Tensor:
        """Exclude the tokens that are not in the vocabulary of each sequence."""
        sizes = [sequence.vocab_size or self._vocab_size for sequence in sequences]
        tokens = torch.arange(logits.shape[1], device=logits.device)
        return logits.masked_fill(tokens >= torch.tensor(sizes).unsqueeze(1).to(tokens), -torch.inf)

    def _step_groups(self) -> list[tuple[Sequence, CompletionDelta]]:
        """Compute a token for every sequence on the padded path, group by group."""
        deltas: list[tuple[Sequence, CompletionDelta]] = []
        for group in self.padded.groups.copy():
            if self.padded_runner is None:
                break
            try:
                if group.searches:
                    deltas += self._search(group, self.padded_runner)
                    continue
                logits, num_tokens = self.padded_runner(group)
            except Exception as error:  # noqa: BLE001, transformers' classes raise any kind
                deltas += self._fail_group(group, error)
                continue
            self._num_steps += 1
            self._num_computed_tokens += num_tokens
            deltas += self._sample(group.sequences, StepLogits(logits))
        return deltas

    def _search(
        self, group: PaddedGroup, runner: PaddedRunner
    ) -> list[tuple[Sequence, CompletionDelta]]:
        """Compute a token of each beam of a group; append the answers once they are found."""
        answers = runner.search(group)
        self._num_steps += 1
        self._num_computed_tokens += len(group.rows) * group.num_beams
        deltas: list[tuple[Sequence, CompletionDelta]] = []
        for sequence, tokens in answers or ():
            deltas += [(sequence, sequence.append(SampledToken(token))) for token in tokens]
            if sequence.finish_reason is None:
                error = ComputeError("the search ended before the answer did")
                deltas.append((sequence, sequence.fail(error)))
            self.scheduler.finish(sequence)
        return deltas

    def _fail_group(
        self, group: PaddedGroup, error: Exception
    ) -> list[tuple[Sequence, CompletionDelta]]:
        """Divide a group that cannot be computed, so that only those at fault end with an error."""
        sequences = group.sequences
        if len(sequences) > 1:
            by_adapters = isinstance(error, UntraceableInputError)
            _LOG.warning("a group of %d sequences is divided: %s", len(sequences), error)
            self.padded.split(group, by_adapters=by_adapters)
            return []
        _LOG.error("a step on the padded path failed", exc_info=error)
        problem = ComputeError(f"the step could not be computed: {error}")
        self.scheduler.finish(sequences[0])
        return [(sequences[0], sequences[0].fail(problem))]


def _rules(paths: ForwardPaths, runner: PaddedRunner | None) -> GroupRules:
    """Return which sequences may share a group on the padded path."""
    if runner is not None and runner.reads_sources:
        return GroupRules(
            left_padding=paths.padding, equal_lengths=lambda: paths.padding, mixed=paths.mixed
        )
    return GroupRules(
        left_padding=paths.left_padding,
        equal_lengths=runner.equal_lengths if runner is not None else bool,
        mixed=paths.mixed,
    )


def _kv_cache(
    backbone: Backbone, config: EngineConfig, *, paged: bool
) -> tuple[KeyValueCache, int]:
    """Return the paged KV cache and its number of usable blocks, 0 where nothing is paged."""
    layers, heads, width = cache_shape(backbone.config) if paged else (0, 0, 0)
    num_blocks = -(-config.kv_cache_tokens // config.block_size) if paged else 0
    cache = KeyValueCache(
        layers=layers,
        heads=heads,
        width=width,
        # the last block is for the padding of captured steps
        blocks=num_blocks + bool(num_blocks),
        block_size=config.block_size,
        dtype=torch_dtype(backbone.quantization.compute_dtype),
        device=backbone.device,
    )
    return cache, num_blocks
