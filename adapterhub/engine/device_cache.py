"""LRU cache of LoRA adapters in the rank slots of the device."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from math import inf
from typing import TYPE_CHECKING

from adapterhub.engine.prepared_adapter import LoraFactors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from adapterhub.engine.adapter_slots import AdapterSlots, Slot, SlotCopy
    from adapterhub.engine.host_cache import HostCache
    from adapterhub.engine.prepared_adapter import VirtualTokens

#: Most loads and evictions that are kept until they are read.
MAX_EVENTS = 4096


class DeviceCache:
    """Loads adapters from host memory to the device and evicts unused ones.

    Adapters are evicted for a request in this order: those that no waiting request needs, least
    recently used first; those that only later requests need, latest first; and pinned ones, but
    only while no request with an adapter runs, so that nothing else could free rank slots.
    """

    def __init__(self, slots: AdapterSlots, host: HostCache) -> None:
        self._slots = slots
        self._host = host
        #: resident adapters, least recently used first
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._copies: dict[str, SlotCopy] = {}
        self._copy_budget = inf
        #: key to the number of requests that use it, and number of requests that use any
        self._users: Counter[str] = Counter()
        self._num_users = 0
        self._pinned: set[str] = set()
        self._claims: Mapping[str, int] = {}
        self._events: deque[tuple[str, str]] = deque(maxlen=MAX_EVENTS)
        self.loads = 0
        self.evictions = 0

    def __contains__(self, key: str) -> bool:
        return self._slots.find(key) is not None

    def num_users(self, key: str) -> int:
        """Return the number of requests that use an adapter; one that is being copied has one."""
        return self._users[key] or int(key in self._copies)

    def pin(self, key: str, *, pinned: bool) -> None:
        """Keep an adapter on the device once it is there, or let it be evicted again."""
        (self._pinned.add if pinned else self._pinned.discard)(key)

    def claim(self, claims: Mapping[str, int]) -> None:
        """Set which adapters waiting requests need."""
        self._claims = claims

    def acquire(self, keys: Sequence[str], number: int) -> list[Slot | VirtualTokens] | None:
        """Load the adapters of a request and count it as their user.

        Returns:
            Location of each adapter, or ``None`` if not all of them can be loaded yet.
        """
        # before loading, so that the adapters of a blend do not evict each other
        self._users.update(keys)
        placed = self._place(keys, number)
        if placed is None:
            self._forget_users(keys)
        else:
            self._num_users += bool(keys)
        return placed

    def release(self, keys: Sequence[str]) -> None:
        """Count a request no longer as a user of its adapters."""
        self._forget_users(keys)
        self._num_users -= bool(keys)

    def continue_copies(self, max_bytes: float) -> None:
        """Continue the copies in progress.

        Args:
            max_bytes: Bytes that may be copied until the next call; the layer that reaches
                them is copied to its end.
        """
        self._copy_budget = max_bytes
        for key in list(self._copies):
            self._continue_copy(key)

    def drop(self, key: str) -> None:
        """Remove an adapter that no request uses, if it is resident."""
        self._pinned.discard(key)
        if key in self._recent:
            self._remove(key)

    def events(self) -> list[tuple[str, str]]:
        """Return the loads (``load``) and evictions (``evict``) since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def _forget_users(self, keys: Iterable[str]) -> None:
        self._users.subtract(keys)
        self._users += Counter()

    @property
    def _drained(self) -> bool:
        """Whether no request with an adapter runs and nothing is being copied."""
        return not self._num_users and not self._copies

    def _place(self, keys: Sequence[str], number: int) -> list[Slot | VirtualTokens] | None:
        """Load adapters; where nothing runs, evict all others to undo fragmentation."""
        placed = self._try_to_place(keys, number)
        drained = self._drained
        for spared in (self._pinned, set[str]()):
            if placed is None and drained:
                self._evict([key for key in self._recent if key not in spared])
                placed = self._try_to_place(keys, number)
        return placed

    def _try_to_place(self, keys: Sequence[str], number: int) -> list[Slot | VirtualTokens] | None:
        placed = [self._locate(key, number) for key in keys]
        found = [each for each in placed if each is not None]
        return found if len(found) == len(placed) else None

    def _locate(self, key: str, number: int) -> Slot | VirtualTokens | None:
        """Return where an adapter can be used, or ``None`` if it is not loaded yet."""
        slot = self._slots.find(key)
        if slot is None:
            adapter = self._host.get(key)
            if not isinstance(adapter, LoraFactors):
                return adapter
            if not self._load(key, adapter, number):
                return None
            slot = self._slots.find(key)
        self._recent.move_to_end(key)
        return slot

    def _load(self, key: str, factors: LoraFactors, number: int) -> bool:
        """Copy as much of an adapter as the budget allows; return whether it is resident."""
        if key not in self._copies:
            if not self._make_room(factors.rank, number):
                return False
            copy = self._slots.begin_copy(key, factors)
            if copy is None:
                return False
            self._copies[key] = copy
        return self._continue_copy(key)

    def _continue_copy(self, key: str) -> bool:
        copy = self._copies[key]
        if self._copy_budget > 0:
            self._copy_budget -= self._slots.continue_copy(copy, self._copy_budget)
        if copy.left:
            return False
        del self._copies[key]
        self._recent[key] = None
        self._events.append(("load", key))
        self.loads += 1
        return True

    def _make_room(self, rank: int, number: int) -> bool:
        """Evict as few adapters as free ``rank`` contiguous slots, if that is possible.

        This also joins fragments of free slots; adapters in use are never moved.
        """
        going: list[str] = []
        for key in self._eviction_order(number):
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

    def _eviction_order(self, number: int) -> list[str]:
        """Return the adapters that may be evicted for a request, the first to go first."""
        unused = [key for key in self._recent if not self._users[key]]
        loose = [key for key in unused if key not in self._pinned]
        unclaimed = [key for key in loose if key not in self._claims]
        later = [key for key in loose if self._claims.get(key, -1) > number]
        later.sort(key=lambda key: -self._claims[key])
        pinned = [key for key in unused if key in self._pinned] if self._drained else []
        return unclaimed + later + pinned

    def _evict(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._remove(key)
            self._events.append(("evict", key))
            self.evictions += 1

    def _remove(self, key: str) -> None:
        self._slots.drop(key)
        del self._recent[key]
