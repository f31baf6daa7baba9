"""Adapters by digest: in host memory, and in the tables on the device while rows use them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Protocol

from adapterhub.engine.prefixes import PrefixStates
from adapterhub.engine.slots import Blend, LoraFactors
from adapterhub.errors import EngineError, NotFoundError, near

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.engine.slots import AdapterSlots, Slot


class User(Protocol):
    """What uses adapters while it is computed: a row that generates, or a single pass."""

    blend: Blend | None

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Keys and weights."""


class Residency:
    """Puts adapters into slots when rows need them, and takes unused ones out for others.

    Args:
        slots: on the device.
    """

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        self._host: dict[str, LoraFactors | PrefixStates] = {}
        self._rows: Counter[str] = Counter()
        self._pinned: set[str] = set()
        #: resident adapters, the least recently used first
        self._recent: OrderedDict[str, None] = OrderedDict()
        self.loads = 0
        self.evictions = 0

    @property
    def known(self) -> Mapping[str, LoraFactors | PrefixStates]:
        """Adapters in host memory, by key."""
        return self._host

    def keep(self, key: str, adapter: LoraFactors | PrefixStates) -> None:
        """Hold an adapter in host memory."""
        self._host.setdefault(key, adapter)

    def prefix(self, key: str) -> PrefixStates | None:
        """Return an adapter if it is a prefix, which lies in the cache of its rows alone."""
        adapter = self._host[key]
        return adapter if isinstance(adapter, PrefixStates) else None

    def forget(self, key: str) -> None:
        """Let an adapter go, from the device too.

        Raises:
            NotFoundError: when it is not held.
            EngineError: when rows use it.
        """
        if key not in self._host:
            raise NotFoundError("is not loaded", place=key, hint=near(key, self._host))
        if self._rows[key]:
            raise EngineError(f"{self._rows[key]} rows use it", place=key, hint="Cancel them first")
        del self._host[key]
        self._pinned.discard(key)
        if key in self._recent:
            self._drop(key)

    def is_dora(self, key: str) -> bool:
        """Return whether an adapter multiplies the output of layers, and so can't be blended."""
        adapter = self._host[key]
        return isinstance(adapter, LoraFactors) and bool(adapter.gains)

    def has_norms(self, key: str) -> bool:
        """Return whether an adapter replaces norm layers, and so can't be blended."""
        adapter = self._host[key]
        return isinstance(adapter, LoraFactors) and bool(adapter.norms)

    def pin(self, key: str, *, pinned: bool = True) -> None:
        """Keep an adapter on the device once it is there, or no longer."""
        if pinned:
            self._pinned.add(key)
        else:
            self._pinned.discard(key)

    def acquire(self, sequence: User) -> bool:
        """Make a row's adapters resident and count it as their user, if that can be done now."""
        keys = [key for key, _ in sequence.adapters]
        # what this row needs is not pushed out for the rest of it
        self._rows.update(keys)
        slots: list[tuple[Slot, float]] = []
        for key, weight in sequence.adapters:
            factors = self._host[key]
            if isinstance(factors, PrefixStates):
                continue
            slot = self._resident(key, factors)
            if slot is None:
                self._rows.subtract(keys)
                return False
            slots.append((slot, weight))
        sequence.blend = Blend(tuple(slots))
        return True

    def release(self, sequence: User) -> None:
        """Count a row no longer as a user of its adapters."""
        self._rows.subtract(key for key, _ in sequence.adapters)
        sequence.blend = None

    def _resident(self, key: str, factors: LoraFactors) -> Slot | None:
        slot = self._slots.resident.get(key)
        while slot is None:
            slot = self._slots.put(key, factors)
            if slot is None and not self._evict():
                return None
        self.loads += key not in self._recent
        self._recent[key] = None
        self._recent.move_to_end(key)
        return slot

    def _evict(self) -> bool:
        """Take the least recently used adapter that no row uses off the device."""
        for key in self._recent:
            if not self._rows[key] and key not in self._pinned:
                self._drop(key)
                self.evictions += 1
                return True
        return False

    def _drop(self, key: str) -> None:
        self._slots.drop(key)
        del self._recent[key]
