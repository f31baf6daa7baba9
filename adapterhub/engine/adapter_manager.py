"""Placement of adapters in device slots and host memory, with LRU eviction and prefetching."""

from __future__ import annotations

import logging
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Protocol

from adapterhub.engine.adapter_slots import Blend, Slot
from adapterhub.engine.device_cache import DeviceCache
from adapterhub.engine.prepared_adapter import LoraFactors, PrefixStates, PromptEmbeddings
from adapterhub.errors import AdapterHubError, EngineError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from adapterhub.engine.adapter_fetcher import AdapterFetcher, FetchResults
    from adapterhub.engine.adapter_slots import AdapterSlots
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.host_cache import HostCache
    from adapterhub.engine.prepared_adapter import PreparedAdapter

_LOG = logging.getLogger(__name__)
#: Number of a request that no request is later than.
_LAST = 2**62


class AdapterUser(Protocol):
    """A request or sequence that needs adapters.

    Attributes:
        number: Number in order of arrival.
        adapters: Keys and weights, in canonical order.
        validated: Whether the adapters were there once and can serve the request.
        num_virtual_tokens: Number of virtual tokens of its prefix.
        blend: Resident adapters, while it is computed.
    """

    number: int
    adapters: tuple[tuple[str, float], ...]
    validated: bool
    num_virtual_tokens: int
    blend: Blend | None


class AdapterManager:
    """Places adapters in device slots and host memory, with LRU eviction and prefetching.

    Adapters of waiting requests are fetched in order of arrival, a few at a time. They displace
    first what no request needs and then what only later requests need, so the oldest request
    always gets its adapters.

    Args:
        config: Configuration of the engine.
        slots: Rank slots of the device.
        host: Cache in host memory.
        fetcher: Fetcher of adapters that are not in host memory; without one, requests can use
            loaded adapters only.
        validate: Called when all adapters of a request are in host memory, until it returns
            true; raises an ``AdapterHubError`` if they cannot serve it.
    """

    def __init__(
        self,
        config: EngineConfig,
        slots: AdapterSlots,
        host: HostCache,
        fetcher: AdapterFetcher | None,
        validate: Callable[[AdapterUser, Sequence[PreparedAdapter]], bool],
    ) -> None:
        self._config = config
        self._slots = slots
        self._host = host
        self._fetcher = fetcher
        self._validate = validate
        self.device = DeviceCache(slots, host)
        #: pinned adapters that are not in host memory yet
        self._unfetched_pins: set[str] = set()
        #: key to the number of the oldest waiting request that needs it
        self._claims: dict[str, int] = {}
        self._claim(())

    @property
    def fetching_pinned(self) -> bool:
        """Whether a pinned adapter is not in host memory yet."""
        return bool(self._unfetched_pins)

    def admit(self, request: AdapterUser) -> None:
        """Validate a new request, or begin to fetch its adapters."""
        self._try_to_validate(request)
        for key, _ in request.adapters:
            self._claims.setdefault(key, request.number)
        self._fetch(request)

    def poll(
        self, waiting: Collection[AdapterUser], *, idle: bool
    ) -> list[tuple[AdapterUser, AdapterHubError]]:
        """Process fetched adapters and fetch those needed next; called before every step.

        Args:
            waiting: Waiting requests in order of arrival.
            idle: Whether no request runs, so that copying delays nobody.

        Returns:
            Requests whose adapters are unavailable, and why; they must leave the queue.
        """
        results = None if self._fetcher is None else self._fetcher.poll()
        failed = {} if results is None else _apply(results, waiting)
        ahead = [
            each for each in islice(waiting, self._config.prefetch_lookahead) if each not in failed
        ]
        for request in ahead:
            try:
                self._try_to_validate(request)
            except AdapterHubError as error:
                failed[request] = error
        self._claim(ahead)
        if self._fetcher is not None:
            self._fetcher.drop_unwanted({*self._claims, *self._unfetched_pins})
        for request in ahead:
            if request not in failed:
                try:
                    if not self._fetch(request):
                        break
                except AdapterHubError as error:
                    failed[request] = error
        self._fetch_pinned(results)
        self.device.continue_copies(inf if idle else self._config.max_copy_bytes)
        return list(failed.items())

    def unload(self, key: str) -> None:
        """Remove an adapter from host memory and from the device."""
        if key not in self._host:
            hint = did_you_mean(key, self._host.keys)
            raise NotFoundError("is not loaded", place=key, hint=hint)
        users = self.device.num_users(key)
        if users:
            raise EngineError(f"is used by {users} requests", place=key, hint="Cancel them first")
        self._host.remove(key)
        self.device.drop(key)

    def pin(self, key: str, *, pinned: bool = True) -> None:
        """Keep an adapter in host memory, and on the device once it is there; or unpin it.

        A pinned adapter is evicted from the device only if the oldest request needs its slots
        and no running request could free others.
        """
        if self._fetcher is not None and self._fetcher.is_unresolved(key):
            raise EngineError("is still being pulled", place=key, hint="Pin it later")
        self._host.pin(key, pinned=pinned)
        self.device.pin(key, pinned=pinned)
        if not pinned:
            self._unfetched_pins.discard(key)
        elif self._fetcher is not None and key not in self._host:
            self._unfetched_pins.add(key)

    def prefixes(self, user: AdapterUser) -> list[PrefixStates]:
        """Return the prefix adapters of a validated request, at most one."""
        adapters = [self._host.get(key) for key, _ in user.adapters]
        return [adapter for adapter in adapters if isinstance(adapter, PrefixStates)]

    def prompt(self, user: AdapterUser) -> PromptEmbeddings | None:
        """Return the input embeddings that precede the tokens of a validated request, if any."""
        adapters = [self._host.get(key) for key, _ in user.adapters]
        return next((each for each in adapters if isinstance(each, PromptEmbeddings)), None)

    def is_ready(self, user: AdapterUser) -> bool:
        """Return whether all adapters are in host memory or on the device, and validated."""
        return user.validated and not self._missing(user)

    def acquire(self, user: AdapterUser) -> bool:
        """Load the adapters of a request to the device if that is possible now.

        They stay there until ``release``; ``user.blend`` is set.
        """
        if not self.is_ready(user):
            return False
        keys = [key for key, _ in user.adapters]
        self._host.hold(keys)
        placed = self.device.acquire(keys, user.number)
        if placed is None or not user.num_virtual_tokens:
            # a prefix is read from host memory while the request runs
            self._host.release(keys)
        if placed is None:
            return False
        user.blend = Blend(
            tuple(
                (slot, weight)
                for slot, (_, weight) in zip(placed, user.adapters, strict=True)
                if isinstance(slot, Slot)
            )
        )
        return True

    def release(self, user: AdapterUser) -> None:
        """Let the adapters of a request be evicted again."""
        keys = [key for key, _ in user.adapters]
        if user.num_virtual_tokens:
            self._host.release(keys)
        self.device.release(keys)
        user.blend = None

    def _missing(self, user: AdapterUser) -> list[str]:
        """Return the adapters that are neither in host memory nor on the device."""
        return [key for key, _ in user.adapters if key not in self._host and key not in self.device]

    def _try_to_validate(self, request: AdapterUser) -> None:
        if request.validated:
            return
        adapters = [self._host.get(key) for key, _ in request.adapters]
        found = [adapter for adapter in adapters if adapter is not None]
        if len(found) == len(adapters):
            ranks = {
                key: adapter.rank
                for (key, _), adapter in zip(request.adapters, found, strict=True)
                if isinstance(adapter, LoraFactors)
            }
            self._slots.check_rank(sum(ranks.values()), ", ".join(ranks))
            request.validated = self._validate(request, found)

    def _fetch(self, request: AdapterUser) -> bool:
        """Fetch the missing adapters of a request; return whether later ones may be fetched."""
        missing = [key for key, _ in request.adapters if key not in self._host]
        if request.validated:
            missing = self._missing(request)
        for key in missing:
            if self._fetcher is None:
                raise NotFoundError("is not loaded any more", place=key)
            if self._fetcher.is_unresolved(key):
                continue
            if not self._fetcher.fetch(key, request.number):
                return False
        return True

    def _fetch_pinned(self, results: FetchResults | None) -> None:
        """Fetch pinned adapters, after those of waiting requests."""
        for key in sorted(self._unfetched_pins):
            error = None if results is None else results.failed.get(key)
            if error is not None:
                _LOG.warning("a pinned adapter is unavailable: %s", error)
            if error is not None or key in self._host:
                self._unfetched_pins.discard(key)
            elif self._fetcher is not None:
                self._fetcher.fetch(key, _LAST)

    def _claim(self, requests: Iterable[AdapterUser]) -> None:
        self._claims = {}
        for request in requests:
            for key, _ in request.adapters:
                self._claims.setdefault(key, request.number)
        self._host.claim(self._claims)
        self.device.claim(self._claims)


def _apply(
    results: FetchResults, waiting: Iterable[AdapterUser]
) -> dict[AdapterUser, AdapterHubError]:
    """Replace resolved references by digests; return the requests whose adapters failed."""
    failed: dict[AdapterUser, AdapterHubError] = {}
    if not results.resolved and not results.failed:
        return failed
    for request in waiting:
        for key, _ in request.adapters:
            error = results.failed.get(key, results.resolved.get(key))
            if isinstance(error, AdapterHubError):
                failed[request] = error
        request.adapters = tuple(
            (found if isinstance(found := results.resolved.get(key), str) else key, weight)
            for key, weight in request.adapters
        )
    return failed
