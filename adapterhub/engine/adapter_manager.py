"""Adapters by digest: on their way, in host memory, and on the device while rows use them.

Each tier is bounded: the tables have ``rank_slots``, host memory ``host_cache_bytes``, and a few
adapters are under way at once. What rows wait for is brought up in the order of their arrival;
what goes for it is what no row waits for, the least recently used first, and then what only
younger rows wait for. So the oldest row always comes to its adapters, whatever the others ask.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Protocol

from adapterhub.engine.adapter_slots import Blend, LoraFactors
from adapterhub.engine.prefixes import PrefixStates
from adapterhub.errors import AdapterHubError, EngineError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as Rows

    from adapterhub.engine.adapter_fetcher import AdapterFetcher, FetchResults
    from adapterhub.engine.adapter_slots import AdapterSlots, Slot, SlotCopy
    from adapterhub.engine.host_cache import HostCache, Prepared
    from adapterhub.engine.sequences import Sequence

    #: Takes note of what a row's adapters are; raises where they can't serve it.
    Settle = Callable[["Waiting", Rows[Prepared]], None]


_LOG = logging.getLogger(__name__)
#: Number of what nobody waits for.
_AFTER_ALL = 2**62
#: Most moves to and from the device that are remembered until somebody asks for them.
MAX_MOVES = 4096


class User(Protocol):
    """What uses adapters while it is computed: a row that generates, or a single pass."""

    blend: Blend | None

    @property
    def number(self) -> int:
        """Counted up in the order of arrival; what a later one waits for may go for it."""

    @property
    def settled(self) -> bool:
        """Whether its adapters were seen to go together."""

    @property
    def virtual(self) -> int:
        """Positions of its trained prefix."""

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Keys and weights."""


class Waiting(User, Protocol):
    """A user that may wait for its adapters."""

    number: int
    settled: bool
    virtual: int
    adapters: tuple[tuple[str, float], ...]


class AdapterManager:
    """Brings adapters to where rows can use them, and takes unused ones away for others."""

    def __init__(
        self,
        slots: AdapterSlots,
        host: HostCache,
        arrivals: AdapterFetcher | None,
        settle: Settle,
        *,
        prefetch_lookahead: int,
        max_copy_bytes: int,
    ) -> None:
        """Start with nothing held.

        Args:
            slots: on the device.
            host: memory.
            arrivals: of adapters that are not held; without them rows name held ones only.
            settle: called once for each row, when all its adapters are there.
            prefetch_lookahead: rows from the queue's head on whose adapters are brought up.
            max_copy_bytes: bytes that are copied to the device before a step of running rows; the
                layer that reaches them is copied to its end.
        """
        self._slots = slots
        self._host = host
        self._arrivals = arrivals
        self._settle = settle
        self._look_ahead = prefetch_lookahead
        self._copy_bytes = max_copy_bytes
        self._budget = inf
        #: key to the rows that use it, and how many rows use any
        self._rows: Counter[str] = Counter()
        self._users = 0
        self._pinned: set[str] = set()
        #: pinned ones that have to come into host memory first
        self._wished: set[str] = set()
        #: resident adapters, the least recently used first
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._copying: dict[str, SlotCopy] = {}
        #: resident adapters that multiply the output of layers
        self._dora: set[str] = set()
        self._claims: dict[str, int] = {}
        self._moves: deque[tuple[str, str]] = deque(maxlen=MAX_MOVES)
        self.loads = 0
        self.evictions = 0

    def join(self, user: Waiting) -> None:
        """Begin to bring up what a new row needs, which may be there.

        Raises:
            AdapterHubError: when its adapters are there and can't serve it.
        """
        self._try_to_settle(user)
        for key, _ in user.adapters:
            self._claims.setdefault(key, user.number)
        self._bring_up(user)

    def look_after(
        self, waiting: Rows[Waiting], *, idle: bool
    ) -> list[tuple[Waiting, AdapterHubError]]:
        """Take in what has come and ask for what is needed next; called before every step.

        Args:
            waiting: rows in the order of arrival.
            idle: whether no row runs, so that nobody is held up by copying.

        Returns:
            Rows whose adapters can't be had, and why; they are to be taken out of the queue.
        """
        news = None if self._arrivals is None else self._arrivals.take()
        lost = {} if news is None else _told(waiting, news)
        ahead = [row for row in islice(waiting, self._look_ahead) if row not in lost]
        for row in ahead:
            try:
                self._try_to_settle(row)
            except AdapterHubError as error:
                lost[row] = error
        self._claim(ahead)
        if self._arrivals is not None:
            self._arrivals.drop_unwanted({*self._claims, *self._wished})
        for row in ahead:
            if row not in lost:
                try:
                    if not self._bring_up(row):
                        break
                except AdapterHubError as error:
                    lost[row] = error
        self._fetch_pinned(news)
        self._go_on_copying(inf if idle else self._copy_bytes)
        return list(lost.items())

    def wait(self, seconds: float) -> None:
        """Wait until an adapter comes, if any is on its way; at most so long."""
        if self._arrivals is not None:
            self._arrivals.wait(seconds)

    def resolve(self, ref: str) -> str:
        """Return the digest of a reference, or what stands for it while it is looked up.

        Raises:
            AdapterHubError: when it means nothing.
        """
        if self._arrivals is None:
            raise NotFoundError("is not loaded", place=ref)
        return self._arrivals.resolve(ref)

    def keep(self, key: str, adapter: Prepared) -> None:
        """Hold an adapter in host memory until it is forgotten.

        Raises:
            EngineError: when there is no room for it.
        """
        self._host.keep(key, adapter)

    def holds(self, key: str) -> bool:
        """Return whether an adapter is in host memory."""
        return key in self._host

    def forget(self, key: str) -> None:
        """Let an adapter go, from the device too.

        Raises:
            NotFoundError: when it is not held.
            EngineError: when rows use it.
        """
        if key not in self._host:
            raise NotFoundError("is not loaded", place=key, hint=did_you_mean(key, self._host.keys))
        if self._rows[key] or key in self._copying:
            users = max(self._rows[key], 1)
            raise EngineError(f"{users} rows use it", place=key, hint="Cancel them first")
        self._host.forget(key)
        self._pinned.discard(key)
        if key in self._recent:
            self._drop(key)

    def pin(self, key: str, *, pinned: bool = True) -> None:
        """Keep an adapter in host memory, and on the device once it is there; or no longer.

        A pinned one leaves the device only where the oldest row has no room without that, and
        nothing runs that could give it any.
        """
        self._host.pin(key, pinned=pinned)
        if not pinned:
            self._pinned.discard(key)
            self._wished.discard(key)
            return
        self._pinned.add(key)
        if self._arrivals is not None and key not in self._host:
            self._wished.add(key)

    @property
    def fetching(self) -> bool:
        """Whether a pinned adapter is still to come."""
        return bool(self._wished)

    def prefix(self, key: str) -> PrefixStates | None:
        """Return an adapter in host memory if it is a prefix."""
        adapter = self._host.get(key)
        return adapter if isinstance(adapter, PrefixStates) else None

    def prefixes(self, sequence: Sequence) -> list[PrefixStates]:
        """Return the prefixes of a row that runs."""
        held = [self._host.get(key) for key, _ in sequence.adapters]
        return [adapter for adapter in held if isinstance(adapter, PrefixStates)]

    def is_dora(self, key: str) -> bool:
        """Return whether a resident adapter multiplies the output of layers."""
        return key in self._dora

    def ready(self, sequence: User) -> bool:
        """Return whether a row waits for nothing but its turn and room on the device."""
        return sequence.settled and not self._missing(sequence)

    def acquire(self, sequence: User) -> bool:
        """Make a row's adapters resident and count it as their user, if that can be done now."""
        if not self.ready(sequence):
            return False
        keys = [key for key, _ in sequence.adapters]
        # what this row needs is not pushed out for the rest of it
        self._count(keys, 1)
        slots = self._placed(keys, sequence.number)
        if slots is None:
            self._count(keys, -1)
            return False
        self._users += bool(keys)
        if not sequence.virtual:
            # the device has it all; only a prefix is read from host memory later on
            self._host.let_go(keys)
        sequence.blend = Blend(
            tuple(
                (slot, weight)
                for slot, (_, weight) in zip(slots, sequence.adapters, strict=True)
                if not isinstance(slot, PrefixStates)
            )
        )
        return True

    def release(self, sequence: User) -> None:
        """Count a row no longer as a user of its adapters."""
        keys = [key for key, _ in sequence.adapters]
        if not sequence.virtual:
            self._host.hold(keys)
        self._count(keys, -1)
        self._users -= bool(keys)
        sequence.blend = None

    def moves(self) -> list[tuple[str, str]]:
        """Return what came to the device (``load``) or left it (``evict``) since last asked."""
        moves = list(self._moves)
        self._moves.clear()
        return moves

    def close(self) -> None:
        """Let nothing arrive any more."""
        if self._arrivals is not None:
            self._arrivals.close()

    def _missing(self, sequence: User) -> list[str]:
        """Return what a row needs and is neither in host memory nor on the device."""
        return [
            key
            for key, _ in sequence.adapters
            if key not in self._host and self._slots.find(key) is None
        ]

    def _try_to_settle(self, sequence: Waiting) -> None:
        if sequence.settled:
            return
        held = [self._host.get(key) for key, _ in sequence.adapters]
        found = [adapter for adapter in held if adapter is not None]
        if len(found) == len(held):
            ranks = {
                key: adapter.rank
                for (key, _), adapter in zip(sequence.adapters, found, strict=True)
                if isinstance(adapter, LoraFactors)
            }
            self._slots.check_rank(sum(ranks.values()), ", ".join(ranks))
            self._settle(sequence, found)
            sequence.settled = True

    def _bring_up(self, sequence: Waiting) -> bool:
        """Ask for what a row lacks; return whether younger rows may ask for theirs."""
        lacking = [key for key, _ in sequence.adapters if key not in self._host]
        if sequence.settled:
            lacking = self._missing(sequence)
        for key in lacking:
            if self._arrivals is None:
                raise NotFoundError("is not loaded any more", place=key)
            if self._arrivals.is_reference(key):
                continue
            if not self._arrivals.want(key, sequence.number):
                return False
        return True

    def _fetch_pinned(self, news: FetchResults | None) -> None:
        """Ask for pinned adapters after those that rows wait for."""
        for key in sorted(self._wished):
            error = news.failed.get(key) if news is not None else None
            if error is not None:
                _LOG.warning("a pinned adapter can't be had: %s", error)
            if error is not None or key in self._host:
                self._wished.discard(key)
            elif self._arrivals is not None:
                self._arrivals.want(key, _AFTER_ALL)

    def _claim(self, rows: Iterable[Waiting]) -> None:
        self._claims = {}
        for row in rows:
            for key, _ in row.adapters:
                self._claims.setdefault(key, row.number)
        self._host.claim(self._claims)

    def _go_on_copying(self, budget: float) -> None:
        self._budget = budget
        for key in list(self._copying):
            self._copy(key)

    def _copy(self, key: str) -> bool:
        """Copy as much of an adapter as may be now; return whether it is resident."""
        copying = self._copying[key]
        if self._budget > 0:
            self._budget -= self._slots.go_on(copying, self._budget)
        if copying.left:
            return False
        del self._copying[key]
        if copying.factors.gains:
            self._dora.add(key)
        self._recent[key] = None
        self._moves.append(("load", key))
        self.loads += 1
        return True

    def _placed(self, keys: list[str], number: int) -> list[Slot | PrefixStates] | None:
        """Return where a row's adapters are for use, or ``None`` where not all can be there yet.

        Its own may lie so that the free rows between them are in pieces. Where nothing runs, so
        that waiting changes nothing, they are all placed anew.
        """
        placed = self._try_to_place(keys, number)
        drained = not self._users and not self._copying
        for spared in (self._pinned, set[str]()):
            if placed is None and drained:
                self._evict([key for key in self._recent if key not in spared])
                placed = self._try_to_place(keys, number)
        return placed

    def _try_to_place(self, keys: list[str], number: int) -> list[Slot | PrefixStates] | None:
        slots = [self._resident(key, number) for key in keys]
        found = [slot for slot in slots if slot is not None]
        return found if len(found) == len(slots) else None

    def _resident(self, key: str, number: int) -> Slot | PrefixStates | None:
        """Return where an adapter is for use, or ``None`` where it can't be there yet."""
        slot = self._slots.find(key)
        if slot is None:
            adapter = self._host.get(key)
            if not isinstance(adapter, LoraFactors):
                return adapter
            if not self._place(key, adapter, number):
                return None
            slot = self._slots.find(key)
        self._recent.move_to_end(key)
        return slot

    def _place(self, key: str, factors: LoraFactors, number: int) -> bool:
        if key not in self._copying:
            if not self._make_room(factors.rank, number):
                return False
            copying = self._slots.begin(key, factors)
            if copying is None:
                return False
            self._copying[key] = copying
        return self._copy(key)

    def _make_room(self, rank: int, number: int) -> bool:
        """Take as few adapters off the device as give ``rank`` rows in a row, if any do.

        Rows that are free in pieces are joined by this too; what rows use is never moved.
        """
        going: list[str] = []
        for key in self._in_order_of_going(number):
            if self._slots.fits(rank, going):
                break
            going.append(key)
        if not self._slots.fits(rank, going):
            return False
        for key in reversed(tuple(going)):
            others = [other for other in going if other != key]
            if self._slots.fits(rank, others):
                going = others
        self._evict(going)
        return True

    def _in_order_of_going(self, number: int) -> list[str]:
        """Return what may leave the device for a row, the first to leave first."""
        unused = [key for key in self._recent if not self._rows[key]]
        loose = [key for key in unused if key not in self._pinned]
        unclaimed = [key for key in loose if key not in self._claims]
        younger = [key for key in loose if self._claims.get(key, -1) > number]
        younger.sort(key=lambda key: -self._claims[key])
        # pinned ones go where nothing that runs could give room instead
        drained = not self._users and not self._copying
        pinned = [key for key in unused if key in self._pinned] if drained else []
        return unclaimed + younger + pinned

    def _count(self, keys: list[str], more: int) -> None:
        """Count a row as a user of adapters, on the device and in host memory, or no longer."""
        for key in keys:
            self._rows[key] += more
            if not self._rows[key]:
                del self._rows[key]
        if more > 0:
            self._host.hold(keys)
        else:
            self._host.let_go(keys)

    def _evict(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._drop(key)
            self._moves.append(("evict", key))
            self.evictions += 1

    def _drop(self, key: str) -> None:
        self._slots.drop(key)
        self._dora.discard(key)
        del self._recent[key]


def _told(waiting: Iterable[Waiting], news: FetchResults) -> dict[Waiting, AdapterHubError]:
    """Give rows the digests that were looked up; return those whose adapters can't be had."""
    lost: dict[Waiting, AdapterHubError] = {}
    if not news.resolved and not news.failed:
        return lost
    for row in waiting:
        for key, _ in row.adapters:
            error = news.failed.get(key, news.resolved.get(key))
            if isinstance(error, AdapterHubError):
                lost[row] = error
        row.adapters = tuple(
            (found if isinstance(found := news.resolved.get(key), str) else key, weight)
            for key, weight in row.adapters
        )
    return lost
