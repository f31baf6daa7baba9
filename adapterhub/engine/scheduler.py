"""Scheduling of each step: which sequences run, and with how many tokens.

Decoding sequences come first, with one token each. The rest of the token budget goes to prompts in
chunks, so a long prompt never stalls the others. When the KV cache is full, the latest sequence is
preempted: it returns its blocks and is computed again later.

The last chunk of a prompt begins where its cached blocks would end, and the answers of one request
wait until one of them has computed these blocks. So the steps of a request that runs alone are the
same whether its prompt was cached or not, and so are all results, bit by bit.

Sequences start in order of arrival, with two exceptions. A sequence whose adapters are not in host
memory yet is skipped. A sequence whose adapters are there but have no free rank slots may be
overtaken by ``max_overtakes`` sequences in all; then no later sequence starts before it, so that
running ones finish until there is room. This bounds the wait: if sequences run for at most ``L``
steps and the KV cache suffices, a sequence with ``k`` others before it in the queue starts at most
``(k + max_overtakes + 1) * L`` steps after its adapters and those of the ``k`` are in host memory.
For if no sequence starts, none runs after at most ``L`` steps, and then the oldest starts.

Sequences on the padded path start in the same order, as groups that then advance in lock step.
Later ones that may share the group of the next sequence start with it, which counts as
overtaking.

Pooling requests are computed before the step of the generating sequences and hold their adapters
only meanwhile. If the first of them finds no room ``max_overtakes`` times in a row, no sequence
starts until it does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias

from adapterhub.engine.block_pool import hash_adapters, hash_block
from adapterhub.engine.pooling_requests import PoolingRequest
from adapterhub.engine.sequences import Sequence
from adapterhub.errors import ComputeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.block_pool import BlockPool
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.padded_groups import PaddedGroups
    from adapterhub.engine.pooling_requests import PoolingSequence

WaitingRequest: TypeAlias = Sequence | PoolingRequest


class RequestQueue:
    """Waiting sequences and pooling requests, in order of arrival.

    It holds those that wait for adapters too. A pooling request stays until all its sequences
    are computed; a sequence leaves when it starts and returns to its place when it is preempted.
    """

    def __init__(self) -> None:
        self._waiting: list[WaitingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[WaitingRequest]:
        return iter(self._waiting)

    def __contains__(self, request: WaitingRequest) -> bool:
        place = bisect_left(self._waiting, request.number, key=_number)
        return self._waiting[place : place + 1] == [request]

    def add(self, request: WaitingRequest) -> None:
        """Add a request at its place in the order of arrival."""
        insort(self._waiting, request, key=_number)

    def remove(self, request: WaitingRequest) -> None:
        """Remove a request if it is waiting."""
        if request in self:
            del self._waiting[bisect_left(self._waiting, request.number, key=_number)]

    def sequences(self) -> Iterator[Sequence]:
        """Iterate over the sequences that wait to generate."""
        return (each for each in self._waiting if isinstance(each, Sequence))

    def pooling(self) -> Iterator[PoolingRequest]:
        """Iterate over the pooling requests."""
        return (each for each in self._waiting if isinstance(each, PoolingRequest))

    def needing_adapters(self) -> list[WaitingRequest]:
        """Return the requests whose adapters must be fetched or kept.

        Of validated pooling requests, which may be many, the first for each set of adapters
        represents the others.
        """
        seen: set[tuple[tuple[str, float], ...]] = {()}
        found = []
        for request in self._waiting:
            if isinstance(request, PoolingRequest) and request.validated:
                if request.adapters in seen:
                    continue
                seen.add(request.adapters)
            found.append(request)
        return found


def _number(request: WaitingRequest) -> int:
    return request.number


class FillPrefix(Protocol):
    """Copies the keys and values of a prefix adapter into the KV cache."""

    def __call__(self, sequence: Sequence, start: int, end: int) -> None:
        """Write the virtual tokens ``start`` to ``end`` of a sequence to its blocks."""


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens ``start`` to ``end`` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.start

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after the chunk."""
        return self.end == self.sequence.length


class Scheduler:
    """The queue of waiting requests, the running sequences and the plan of each step."""

    def __init__(
        self,
        config: EngineConfig,
        blocks: BlockPool,
        adapters: AdapterManager,
        fill_prefix: FillPrefix,
        padded: PaddedGroups | None = None,
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._adapters = adapters
        self._fill_prefix = fill_prefix
        self.waiting = RequestQueue()
        self.padded = padded
        #: on the fast path, in order of arrival
        self.running: list[Sequence] = []
        self.preemptions = 0
        #: steps in a row in which the first pooling sequence found no room on the device
        self._blocked_pooling_steps = 0

    def schedule_pooling(self) -> list[PoolingSequence]:
        """Return the pooling sequences to compute next, their adapters acquired.

        These are the first one that can be computed, which may have any length, and later ones
        that fit into ``max_pooling_tokens`` with it.
        """
        scheduled: list[PoolingSequence] = []
        budget, blocked = self._config.max_pooling_tokens, False
        pending = [each for request in self.waiting.pooling() for each in request.pending]
        for sequence in pending:
            if scheduled and len(sequence.example) > budget:
                continue
            if not self._adapters.is_ready(sequence):
                continue
            if not self._adapters.acquire(sequence):
                # later ones release their slots at once, so they do not delay the first one
                blocked = blocked or not scheduled
                continue
            scheduled.append(sequence)
            budget -= len(sequence.example)
        self._blocked_pooling_steps = self._blocked_pooling_steps + 1 if blocked else 0
        return scheduled

    def finish_pooling(self, sequences: Iterable[PoolingSequence]) -> None:
        """Release the adapters of computed pooling sequences and dequeue finished requests.

        A sequence without a result, because of an unexpected fault, gets an error, so that the
        next step does not compute it again.
        """
        for sequence in sequences:
            self._adapters.release(sequence)
            if not sequence.finished:
                sequence.error = ComputeError("was not computed")
        for request in [each for each in self.waiting.pooling() if each.finished]:
            self.waiting.remove(request)

    def schedule(self) -> list[ScheduledChunk]:
        """Return the chunks of the next step, whose blocks are allocated."""
        chunks: list[ScheduledChunk] = []
        budget = self._config.max_num_batched_tokens
        preemptions = self.preemptions
        for sequence in sorted(self.running, key=_is_prefilling):
            if budget and sequence in self.running:
                budget -= self._extend(sequence, budget, chunks)
        while budget and self._may_start() and self.preemptions == preemptions:
            candidate, overtaken = self._next_waiting()
            scheduled = None if candidate is None else self._begin(candidate, budget, chunks)
            if scheduled is None:
                break
            for older in overtaken:
                older.overtaken += 1
            budget = max(budget - scheduled, 0)
        # a sequence that was preempted after it was scheduled is not computed
        return [chunk for chunk in chunks if chunk.sequence in self.running]

    def computed(self, chunk: ScheduledChunk) -> None:
        """Record that the keys and values of a chunk are in the cache."""
        sequence = chunk.sequence
        sequence.num_computed_tokens = chunk.end
        known = len(sequence.block_hashes)
        self._hash_blocks(sequence, chunk.end)
        new = sequence.block_hashes[known:]
        for number, content in zip(sequence.blocks[known:], new, strict=False):
            self._blocks.register(number, content)

    def finish(self, sequence: Sequence) -> None:
        """Remove a sequence; its full blocks stay cached."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif self.padded is not None and self.padded.remove(sequence):
            self._adapters.release(sequence)
        else:
            self.waiting.remove(sequence)

    @property
    def num_running(self) -> int:
        """Number of running sequences on both paths."""
        return len(self.running) + (self.padded.num_seqs if self.padded is not None else 0)

    def _may_start(self) -> bool:
        pooling_blocked = self._blocked_pooling_steps > self._config.max_overtakes
        return not pooling_blocked and self.num_running < self._config.max_num_seqs

    def _extend(self, sequence: Sequence, budget: int, chunks: list[ScheduledChunk]) -> int:
        """Schedule the next tokens of a sequence; return how many."""
        virtual = sequence.num_virtual_tokens
        if sequence.num_computed_tokens < virtual:
            if not self._allocate(sequence, virtual):
                return 0
            start = sequence.num_computed_tokens
            self._fill_prefix(sequence, start, virtual)
            self.computed(ScheduledChunk(sequence, start, virtual))
        start = sequence.num_computed_tokens
        end = min(sequence.length, start + budget)
        shared = self._shared_tokens(sequence)
        if start < shared < end:
            end = shared
        if not self._allocate(sequence, end):
            return 0
        chunks.append(ScheduledChunk(sequence, start, end))
        return end - start

    def _shared_tokens(self, sequence: Sequence) -> int:
        """Return the tokens whose blocks a later sequence with the same tokens shares."""
        # at least one token is computed, for its logits
        return (sequence.length - 1) // self._blocks.size * self._blocks.size

    def _awaits_blocks(self, sequence: Sequence) -> bool:
        """Return whether another answer of the same request is computing its blocks."""
        return any(
            other.prompt is sequence.prompt
            and other.adapters == sequence.adapters
            and other.num_computed_tokens < self._shared_tokens(sequence)
            and not other.output_tokens
            for other in self.running
        )

    def _allocate(self, sequence: Sequence, end: int) -> bool:
        """Allocate blocks for tokens up to ``end``, if necessary by preempting later sequences."""
        while len(sequence.blocks) * self._blocks.size < end:
            number = self._blocks.allocate()
            if number is not None:
                sequence.blocks.append(number)
                continue
            latest = self.running[-1]
            self._preempt(latest)
            if latest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.num_computed_tokens = 0
        self.waiting.add(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.block_hashes = []
        self._adapters.release(sequence)

    def _hash_blocks(self, sequence: Sequence, end: int) -> None:
        """Hash the full blocks among the first ``end`` tokens that are not hashed yet."""
        size, hashes = self._blocks.size, sequence.block_hashes
        # the first block that the adapters, active from a position on, have a part in
        adapted = sequence.active_from // size * size
        for start in range(len(hashes) * size, end - size + 1, size):
            previous = hashes[-1] if hashes else hash_adapters("") if adapted else b""
            if start == adapted:
                previous = hash_adapters(sequence.adapter_key, previous)
            hashes.append(hash_block(previous, sequence.token_ids(start, start + size)))

    def _next_waiting(self) -> tuple[Sequence | None, list[Sequence]]:
        """Return the sequence to start next, its adapters acquired, and those it overtakes."""
        overtaken: list[Sequence] = []
        for sequence in islice(self.waiting.sequences(), self._config.prefetch_lookahead):
            if not self._adapters.is_ready(sequence) or self._awaits_blocks(sequence):
                continue
            if self._adapters.acquire(sequence):
                return sequence, overtaken
            if sequence.overtaken >= self._config.max_overtakes:
                break
            overtaken.append(sequence)
        return None, overtaken

    def _begin(self, sequence: Sequence, budget: int, chunks: list[ScheduledChunk]) -> int | None:
        """Start a sequence, or a group with it; return the tokens of its first pass.

        If there is no room for it, its adapters are released and ``None`` is returned.
        """
        if sequence.padded:
            return self._start_group(sequence, budget)
        return self._extend(sequence, budget, chunks) if self._start(sequence) else None

    def _start_group(self, first: Sequence, budget: int) -> int | None:
        """Start a group with a sequence, which may have any length, and others that fit."""
        padded, members = self.padded, [first]
        if padded is None or not padded.fits(members):
            self._adapters.release(first)
            return None
        overtaken: list[Sequence] = []
        most = self._config.max_num_seqs - self.num_running
        for sequence in islice(self.waiting.sequences(), self._config.prefetch_lookahead):
            if len(members) == most:
                break
            if sequence is first or not self._adapters.is_ready(sequence):
                continue
            if self._joins(members, sequence, budget) and self._adapters.acquire(sequence):
                members.append(sequence)
                for older in overtaken:
                    older.overtaken += 1
            elif sequence.overtaken >= self._config.max_overtakes:
                break
            else:
                overtaken.append(sequence)
        for sequence in members:
            self.waiting.remove(sequence)
        padded.start(members)
        return _padded_tokens(members)

    def _joins(self, members: list[Sequence], sequence: Sequence, budget: int) -> bool:
        """Return whether a sequence may start in a group, within the budget of the step."""
        group = [*members, sequence]
        return (
            self.padded is not None
            and sequence.padded
            and _padded_tokens(group) <= budget
            and self.padded.rules.fit(members[0], sequence)
            and self.padded.fits(group)
        )

    def _start(self, sequence: Sequence) -> bool:
        """Move a sequence to the running ones, with its cached blocks."""
        self._hash_blocks(sequence, self._shared_tokens(sequence))
        cached = self._blocks.share_cached(sequence.block_hashes)
        # without room for its first new block it would preempt others at once
        if not self._blocks.free:
            self._blocks.release(cached)
            self._adapters.release(sequence)
            return False
        self.waiting.remove(sequence)
        sequence.blocks = cached
        sequence.block_hashes = sequence.block_hashes[: len(cached)]
        sequence.num_computed_tokens = len(cached) * self._blocks.size
        place = sum(other.number < sequence.number for other in self.running)
        self.running.insert(place, sequence)
        return True


def _padded_tokens(group: list[Sequence]) -> int:
    """Return the tokens of the first forward pass of a group, padding included."""
    return len(group) * max(sequence.length for sequence in group)


def _is_prefilling(sequence: Sequence) -> bool:
    return sequence.length - sequence.num_computed_tokens > 1
