"""Adapters in host memory, ready to be copied to the device, within a bound in bytes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from adapterhub.engine.adapter_slots import LoraFactors
from adapterhub.engine.prefixes import PrefixStates
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: An adapter in the compute type, its scale folded in.
Prepared: TypeAlias = LoraFactors | PrefixStates


class HostCache:
    """Holds adapters by digest; the least recently used go first. Safe for several threads.

    What was loaded by hand can't be fetched again: it counts, and stays until it is forgotten.
    For the rest, room for a row's adapter is made from what no row waits for, and then from what
    only younger rows wait for, so that the oldest row always gets it.

    Args:
        limit: most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evictions = 0
        self._lock = Lock()
        #: the least recently used first
        self._held: OrderedDict[str, Prepared] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._permanent: set[str] = set()
        self._pinned: set[str] = set()
        self._users: Counter[str] = Counter()
        self._claims: Mapping[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters, and of the room kept for those that are made ready."""
        with self._lock:
            return self._taken()

    @property
    def keys(self) -> frozenset[str]:
        """Digests of what is held."""
        with self._lock:
            return frozenset(self._held)

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def get(self, key: str) -> Prepared | None:
        """Return an adapter if it is held, which counts as use."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: str, adapter: Prepared) -> None:
        """Hold an adapter until it is forgotten.

        Raises:
            EngineError: when there is no room for it.
        """
        size = prepared_bytes(adapter)
        with self._lock:
            if key not in self._sizes:
                if not self._make_room(size, -1):
                    raise EngineError(
                        f"takes {size} bytes of host memory, {self.limit - self._taken()} of "
                        f"{self.limit} are free",
                        place=key,
                        hint="Unload another one, or start the engine with more host_cache_bytes",
                    )
                self._held[key], self._sizes[key] = adapter, size
            self._permanent.add(key)

    def reserve(self, key: str, size: int, number: int) -> bool:
        """Make room for an adapter that is not ready yet, if that can be done now.

        Args:
            key: of the adapter.
            size: bytes.
            number: of the oldest row that waits for it.

        Raises:
            EngineError: when there can never be room.
        """
        with self._lock:
            stay = self._permanent | self._pinned
            fixed = sum(self._sizes.get(key, 0) for key in stay)
            # a row starts once all its adapters are here together
            beside = sum(
                size
                for key, size in self._sizes.items()
                if key not in stay and self._claims.get(key) == number
            )
            if size > self.limit - fixed - beside:
                raise EngineError(
                    f"takes {size} bytes of host memory, all of it is {self.limit}: {fixed} are "
                    f"loaded by hand or pinned, {beside} are of adapters that it is used with",
                    place=key,
                    hint="Start the engine with more host_cache_bytes",
                )
            if not self._make_room(size, number):
                return False
            self._reserved[key] = size
            return True

    def put(self, key: str, adapter: Prepared) -> None:
        """Hold an adapter in the room that was reserved for it."""
        with self._lock:
            del self._reserved[key]
            self._held[key] = adapter
            self._sizes[key] = prepared_bytes(adapter)

    def give_up(self, key: str) -> None:
        """Give room back where nothing was put into it."""
        with self._lock:
            self._reserved.pop(key, None)

    def forget(self, key: str) -> None:
        """Let an adapter go."""
        with self._lock:
            self._permanent.discard(key)
            self._pinned.discard(key)
            self._drop(key)

    def hold(self, keys: Iterable[str]) -> None:
        """Count a row that reads adapters from here, so that they stay."""
        with self._lock:
            self._users.update(keys)

    def let_go(self, keys: Iterable[str]) -> None:
        """Count such a row less."""
        with self._lock:
            for key in keys:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key]

    def pin(self, key: str, *, pinned: bool) -> None:
        """Let an adapter stay once it is here, or no longer."""
        with self._lock:
            if pinned:
                self._pinned.add(key)
            else:
                self._pinned.discard(key)

    def claim(self, claims: Mapping[str, int]) -> None:
        """Note what rows wait for now.

        Args:
            claims: digest to the number of the oldest row that waits for it.
        """
        with self._lock:
            self._claims = claims

    def _make_room(self, size: int, number: int) -> bool:
        going: list[str] = []
        free = self.limit - self._taken()
        for key in self._in_order_of_going(number):
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

    def _in_order_of_going(self, number: int) -> list[str]:
        """Return what may go for a row, the first to go first."""
        fixed = self._permanent | self._pinned
        loose = [key for key in self._held if key not in fixed and not self._users[key]]
        unclaimed = [key for key in loose if key not in self._claims]
        younger = [key for key in loose if self._claims.get(key, -1) > number]
        return unclaimed + sorted(younger, key=lambda key: -self._claims[key])

    def _drop(self, key: str) -> None:
        self._held.pop(key, None)
        self._sizes.pop(key, None)

    def _taken(self) -> int:
        return sum(self._sizes.values()) + sum(self._reserved.values())


def prepared_bytes(adapter: Prepared) -> int:
    """Return the bytes that an adapter's tensors take."""
    head = adapter.reader.nbytes if adapter.reader is not None else 0
    if isinstance(adapter, PrefixStates):
        return head + sum(tensor.nbytes for tensor in (*adapter.keys, *adapter.values))
    pairs = sum(a.nbytes + b.nbytes for a, b in adapter.pairs.values())
    norms = sum(each.nbytes for own in adapter.norms.values() for each in own.values())
    return head + pairs + norms + sum(gain.nbytes for gain in adapter.gains.values())
