"""LRU cache of prepared adapters in host memory, bounded in bytes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from adapterhub.engine.prepared_adapter import PreparedAdapter


class HostCache:
    """Prepared adapters by digest, evicted in LRU order. Safe for several threads.

    Adapters that were loaded explicitly cannot be fetched again: they count towards the limit
    and stay until they are unloaded. The others are evicted for a request in this order: those
    that no waiting request needs, then those that only later requests need. So the oldest
    request always gets memory.

    Args:
        limit: Most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evictions = 0
        self._lock = Lock()
        #: least recently used first
        self._adapters: OrderedDict[str, PreparedAdapter] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._permanent: set[str] = set()
        self._pinned: set[str] = set()
        self._users: Counter[str] = Counter()
        self._claims: Mapping[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters and of the memory reserved for those in preparation."""
        with self._lock:
            return self._used()

    @property
    def keys(self) -> frozenset[str]:
        """Digests of all adapters."""
        with self._lock:
            return frozenset(self._adapters)

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def get(self, key: str) -> PreparedAdapter | None:
        """Return an adapter if it is here, and mark it as used."""
        with self._lock:
            if key in self._adapters:
                self._adapters.move_to_end(key)
            return self._adapters.get(key)

    def keep(self, key: str, adapter: PreparedAdapter) -> None:
        """Add an adapter that stays until it is removed."""
        size = adapter.nbytes
        with self._lock:
            if key not in self._sizes:
                if not self._make_room(size, -1):
                    raise EngineError(
                        f"takes {size} bytes of host memory, {self.limit - self._used()} of "
                        f"{self.limit} are free",
                        place=key,
                        hint="Unload an adapter, or start the engine with more host_cache_bytes",
                    )
                self._adapters[key], self._sizes[key] = adapter, size
            self._permanent.add(key)

    def reserve(self, key: str, size: int, number: int) -> bool:
        """Reserve memory for an adapter in preparation; return whether there is enough now."""
        with self._lock:
            self._check_possible(key, size, number)
            if not self._make_room(size, number):
                return False
            self._reserved[key] = size
            return True

    def put(self, key: str, adapter: PreparedAdapter) -> None:
        """Add an adapter in the memory that was reserved for it."""
        with self._lock:
            del self._reserved[key]
            self._adapters[key] = adapter
            self._sizes[key] = adapter.nbytes

    def cancel_reservation(self, key: str) -> None:
        """Free reserved memory that was not used."""
        with self._lock:
            self._reserved.pop(key, None)

    def remove(self, key: str) -> None:
        """Remove an adapter."""
        with self._lock:
            self._permanent.discard(key)
            self._pinned.discard(key)
            self._drop(key)

    def hold(self, keys: Iterable[str]) -> None:
        """Count a request that reads adapters from host memory, so that they stay."""
        with self._lock:
            self._users.update(keys)

    def release(self, keys: Iterable[str]) -> None:
        """Count such a request no longer."""
        with self._lock:
            self._users.subtract(keys)
            self._users += Counter()

    def pin(self, key: str, *, pinned: bool) -> None:
        """Keep an adapter once it is here, or let it be evicted again."""
        with self._lock:
            (self._pinned.add if pinned else self._pinned.discard)(key)

    def claim(self, claims: Mapping[str, int]) -> None:
        """Set which adapters waiting requests need."""
        with self._lock:
            self._claims = claims

    def _check_possible(self, key: str, size: int, number: int) -> None:
        stay = self._permanent | self._pinned
        fixed = sum(self._sizes.get(each, 0) for each in stay)
        # a request starts once all its adapters are here together
        blended = sum(
            taken
            for each, taken in self._sizes.items()
            if each not in stay and self._claims.get(each) == number
        )
        if size > self.limit - fixed - blended:
            raise EngineError(
                f"takes {size} bytes of host memory, all of it is {self.limit}: {fixed} are "
                f"loaded explicitly or pinned, {blended} are of adapters that it is blended with",
                place=key,
                hint="Start the engine with more host_cache_bytes",
            )

    def _make_room(self, size: int, number: int) -> bool:
        going: list[str] = []
        free = self.limit - self._used()
        for key in self._eviction_order(number):
            if free >= size:
                break
            going.append(key)
            free += self._sizes[key]
        if free < size:
            return False
        for key in going:
            self._drop(key)
            self.evictions += 1
        return True

    def _eviction_order(self, number: int) -> list[str]:
        """Return the adapters that may be evicted for a request, the first to go first."""
        fixed = self._permanent | self._pinned
        loose = [key for key in self._adapters if key not in fixed and not self._users[key]]
        unclaimed = [key for key in loose if key not in self._claims]
        later = [key for key in loose if self._claims.get(key, -1) > number]
        return unclaimed + sorted(later, key=lambda key: -self._claims[key])

    def _drop(self, key: str) -> None:
        self._adapters.pop(key, None)
        self._sizes.pop(key, None)

    def _used(self) -> int:
        return sum(self._sizes.values()) + sum(self._reserved.values())
