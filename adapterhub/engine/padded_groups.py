"""Groups of sequences that are generated in lock step, and which sequences may share one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as SequenceOf

    from adapterhub.engine.beam_search import BeamSearch
    from adapterhub.engine.lock_step import LockStepBatch
    from adapterhub.engine.module_state import KeptState
    from adapterhub.engine.sequences import Sequence


@dataclass(slots=True, eq=False)
class PaddedGroup:
    """Sequences that started together and get one token each in every step.

    Args:
        rows: Sequence of each row of the batch; ``None`` for one that is finished and still
            computed, where the model's cache cannot leave it out.
    """

    rows: list[Sequence | None]
    #: set by the first forward pass
    batch: LockStepBatch | None = None
    #: what modules keep for the group outside of the cache
    kept: KeptState = field(default_factory=dict)
    #: set by the first step of a search
    search: BeamSearch | None = None

    @property
    def sequences(self) -> list[Sequence]:
        """The unfinished sequences."""
        return [sequence for sequence in self.rows if sequence is not None]

    @property
    def num_beams(self) -> int:
        """Number of beams of each sequence."""
        return self.sequences[0].state.params.num_beams or 1

    @property
    def searches(self) -> bool:
        """Whether the answers are searched for by beams."""
        return self.num_beams > 1

    @property
    def reserved_tokens(self) -> int:
        """Tokens that the cache of the group may come to hold."""
        length = max(sequence.length for sequence in self.sequences)
        if self.batch is not None:
            length = max(length, self.batch.length)
        length += max(sequence.num_source_positions for sequence in self.sequences)
        longest = length + max(_remaining(each) for each in self.sequences)
        return len(self.rows) * self.num_beams * longest


@dataclass(frozen=True, slots=True)
class GroupRules:
    """Which sequences a backbone computes equally together and alone.

    Args:
        left_padding: Whether sequences of different lengths may share a group: padded on the left,
            or the sources of an encoder-decoder on the right.
        equal_lengths: Whether sequences of equal length may; evaluated once, when it matters.
        mixed: Whether sequences of different adapters may.
    """

    left_padding: bool
    equal_lengths: Callable[[], bool]
    mixed: bool

    def fit(self, first: Sequence, other: Sequence) -> bool:
        """Return whether a sequence may be in the group of another."""
        if not _advance_together(first, other):
            return False
        same_adapters = first.adapters == other.adapters
        if not same_adapters and (not self.mixed or first.exclusive or other.exclusive):
            return False
        # all rows of a batch have the same virtual tokens before them
        virtual = first.num_virtual_tokens or other.num_virtual_tokens
        if virtual and not same_adapters:
            return False
        if first.length == other.length:
            return self.left_padding or self.equal_lengths()
        return self.left_padding and not virtual


class PaddedGroups:
    """The running groups, bounded in the tokens that their caches may come to hold.

    Args:
        rules: Which sequences may share a group.
        capacity: Most tokens of all caches together, those to be generated included.
    """

    def __init__(self, rules: GroupRules, capacity: int) -> None:
        self.rules = rules
        self.groups: list[PaddedGroup] = []
        self._capacity = capacity

    @property
    def sequences(self) -> list[Sequence]:
        """The unfinished sequences of all groups."""
        return [sequence for group in self.groups for sequence in group.sequences]

    @property
    def num_seqs(self) -> int:
        """Number of unfinished sequences."""
        return len(self.sequences)

    @property
    def free_tokens(self) -> int:
        """Tokens that the caches of new groups may hold."""
        return self._capacity - sum(group.reserved_tokens for group in self.groups)

    @property
    def nbytes(self) -> int:
        """Bytes of all caches."""
        return sum(group.batch.nbytes for group in self.groups if group.batch is not None)

    def fits(self, sequences: SequenceOf[Sequence]) -> bool:
        """Return whether there is room for a group of these sequences."""
        return PaddedGroup(list(sequences)).reserved_tokens <= self.free_tokens

    def start(self, sequences: Iterable[Sequence]) -> None:
        """Start a group; its first forward pass computes all tokens that the sequences have."""
        self.groups.append(PaddedGroup(list(sequences)))

    def remove(self, sequence: Sequence) -> bool:
        """Remove a sequence; return whether it was in a group."""
        for group in self.groups:
            if sequence in group.rows:
                group.rows[group.rows.index(sequence)] = None
                if not group.sequences:
                    self.groups.remove(group)
                return True
        return False

    def split(self, group: PaddedGroup, *, by_adapters: bool) -> None:
        """Replace a group by smaller ones, whose first pass computes all their tokens again.

        Args:
            group: Group with several sequences.
            by_adapters: Whether sequences of the same adapters stay together.
        """
        parts: dict[object, list[Sequence]] = {}
        for sequence in group.sequences:
            parts.setdefault(sequence.adapters if by_adapters else sequence, []).append(sequence)
        place = self.groups.index(group)
        self.groups[place : place + 1] = [PaddedGroup(list(part)) for part in parts.values()]


def _advance_together(first: Sequence, other: Sequence) -> bool:
    """Return whether two sequences are at the same position of a decoder and search alike."""
    if len(first.decoder_prompt) != len(other.decoder_prompt):
        return False
    if all((each.state.params.num_beams or 1) == 1 for each in (first, other)):
        return True
    # a search has one length, one set of end tokens and one set of rules
    return (
        first.state.params == other.state.params
        and first.state.end_ids == other.state.end_ids
        and first.rules == other.rules
    )


def _remaining(sequence: Sequence) -> int:
    """Return how many tokens a sequence may still get."""
    return sequence.state.params.max_tokens - len(sequence.output_tokens)
