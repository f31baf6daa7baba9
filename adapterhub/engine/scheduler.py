"""Which rows take part in the next step, and with how many tokens.

Rows that generate go first, one token each. What is left of the step's tokens is given to
prompts in pieces, so that a long one never stalls the others. When the cache is full, the row
that came last gives its blocks back and is computed again later; nothing is lost by it.

Rows start in the order of arrival, but for two things. A row whose adapters are on their way to
host memory is passed by. One whose adapters are there, and have no room on the device yet, may
be overtaken by ``max_overtakes`` rows in all; then no later row starts before it, so that the
device drains until it has room. A bound follows: where rows run for at most ``L`` steps and the
cache suffices, a row that has ``k`` rows before it in the queue starts at most ``(k +
max_overtakes + 1) * L`` steps after its adapters and those of the ``k`` came to host memory. For
after at most ``L`` steps in which no row starts, none runs, and then the oldest one starts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from adapterhub.engine.block_pool import BlockPool, content_name, first_name

if TYPE_CHECKING:
    from adapterhub.engine.sequences import Sequence


class AdapterManager(Protocol):
    """Who holds the adapters that rows wait for."""

    def ready(self, sequence: Sequence) -> bool:
        """Return whether a row waits for nothing but its turn and room on the device."""

    def acquire(self, sequence: Sequence) -> bool:
        """Make a row's adapters resident and count it as their user, if that can be done now."""

    def release(self, sequence: Sequence) -> None:
        """Count a row no longer as a user of its adapters."""


class FillPrefix(Protocol):
    """Copies a trained prefix into the cache."""

    def __call__(self, sequence: Sequence, start: int, end: int) -> None:
        """Write positions ``start`` to ``end`` of a row, whose blocks are taken."""


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Positions ``start`` to ``end`` of a row, computed in one step."""

    sequence: Sequence
    start: int
    end: int


class Scheduler:
    """Queues and the plan of each step.

    Args:
        blocks: of the key-value cache.
        adapter_manager: of the adapters.
        fill: writes trained prefixes.
        max_num_seqs: most rows that run at once.
        max_num_batched_tokens: most tokens of a step.
        prefetch_lookahead: rows from the head of the queue on that may start.
        max_overtakes: most rows that may start before an older one that is ready.
    """

    def __init__(
        self,
        blocks: BlockPool,
        adapter_manager: AdapterManager,
        fill: FillPrefix,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefetch_lookahead: int = 64,
        max_overtakes: int = 32,
    ) -> None:
        self._blocks = blocks
        self._residency = adapter_manager
        self._fill = fill
        self._max_rows = max_num_seqs
        self._step_tokens = max_num_batched_tokens
        self._look_ahead = prefetch_lookahead
        self._max_overtakes = max_overtakes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Let a row wait for its turn."""
        self.waiting.append(sequence)

    def plan(self, *, start: bool = True) -> list[ScheduledChunk]:
        """Return what the next step computes; blocks for it are taken.

        Args:
            start: whether rows that wait may start.
        """
        pieces: list[ScheduledChunk] = []
        budget = self._step_tokens
        preempted = self.preemptions
        # those that generate come before prompts that are not read to their end
        for sequence in sorted(self.running, key=_is_reading):
            if budget and sequence in self.running:
                budget -= self._extend(sequence, budget, pieces)
        # a row that gave its blocks back after it was planned is not computed
        pieces = [piece for piece in pieces if piece.sequence in self.running]
        while (
            start
            and budget
            and len(self.running) < self._max_rows
            and self.preemptions == preempted
        ):
            next_one, overtaken = self._next_waiting()
            if next_one is None or not self._admit(next_one):
                break
            for older in overtaken:
                older.overtaken += 1
            budget -= self._extend(next_one, budget, pieces)
        return [piece for piece in pieces if piece.sequence in self.running]

    def finish(self, sequence: Sequence) -> None:
        """Take a row out; its full blocks stay known."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def computed(self, piece: ScheduledChunk) -> None:
        """Note that a piece's keys and values are in the cache."""
        sequence = piece.sequence
        sequence.computed = piece.end
        known = len(sequence.chain)
        self._name_blocks(sequence, piece.end)
        for number, content in zip(sequence.blocks[known:], sequence.chain[known:], strict=False):
            self._blocks.know(number, content)

    def _extend(self, sequence: Sequence, budget: int, pieces: list[ScheduledChunk]) -> int:
        """Plan a row's next tokens; return how many."""
        if sequence.computed < sequence.virtual:
            if not self._reach(sequence, sequence.virtual):
                return 0
            self._fill(sequence, sequence.computed, sequence.virtual)
            self.computed(ScheduledChunk(sequence, sequence.computed, sequence.virtual))
        end = min(sequence.length, sequence.computed + budget)
        if not self._reach(sequence, end):
            return 0
        pieces.append(ScheduledChunk(sequence, sequence.computed, end))
        return end - sequence.computed

    def _reach(self, sequence: Sequence, end: int) -> bool:
        """Take the blocks for positions up to ``end``, if need be from rows that came later."""
        while len(sequence.blocks) * self._blocks.size < end:
            number = self._blocks.take()
            if number is not None:
                sequence.blocks.append(number)
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.computed = 0
        # the queue stays in the order of arrival
        place = sum(other.number < sequence.number for other in self.waiting)
        self.waiting.insert(place, sequence)
        self.preemptions += 1

    def _give_back(self, sequence: Sequence) -> None:
        self._blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.chain = []
        self._residency.release(sequence)

    def _name_blocks(self, sequence: Sequence, end: int) -> None:
        """Name the full blocks of a row's first ``end`` positions that have no name yet."""
        size, chain = self._blocks.size, sequence.chain
        for start in range(len(chain) * size, end - size + 1, size):
            before = chain[-1] if chain else first_name(sequence.key)
            chain.append(content_name(before, sequence.cells(start, start + size)))

    def _next_waiting(self) -> tuple[Sequence | None, list[Sequence]]:
        """Return the row that starts next, its adapters acquired, and those it overtakes."""
        passed: list[Sequence] = []
        for sequence in islice(self.waiting, self._look_ahead):
            if not self._residency.ready(sequence):
                continue
            if self._residency.acquire(sequence):
                return sequence, passed
            if sequence.overtaken >= self._max_overtakes:
                break
            passed.append(sequence)
        return None, passed

    def _admit(self, sequence: Sequence) -> bool:
        """Start a row with what the cache knows of it; its adapters are acquired."""
        size = self._blocks.size
        # one position at least is computed, for its logits
        self._name_blocks(sequence, sequence.length - 1)
        found = self._blocks.find(sequence.chain)
        # room for its first new block, or it would push others out at once
        if not self._blocks.free:
            self._blocks.release(found)
            self._residency.release(sequence)
            return False
        self.waiting.remove(sequence)
        sequence.blocks = found
        sequence.chain = sequence.chain[: len(found)]
        sequence.computed = len(found) * size
        # rows are kept in the order of arrival, for preemption
        place = sum(other.number < sequence.number for other in self.running)
        self.running.insert(place, sequence)
        return True


def _is_reading(sequence: Sequence) -> bool:
    return sequence.length - sequence.computed > 1
