"""Fetching of adapters from a source into host memory, in the background."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from adapterhub.errors import AdapterHubError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from concurrent.futures import Future

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.engine.host_cache import HostCache
    from adapterhub.engine.prepared_adapter import PreparedAdapter

_LOG = logging.getLogger(__name__)

#: Most adapters that are fetched at once; the others wait in the order of their requests.
MAX_FETCHES = 4
#: Niceness of background threads: on a busy core one gets a tenth of the time beside a normal
#: thread. At 19, where it gets 1.5 %, an adapter took seconds while both cores were busy.
NICENESS = 10


def background_pool(name: str, threads: int) -> ThreadPoolExecutor:
    """Return a thread pool of low priority on Linux, of normal priority elsewhere.

    Args:
        name: Prefix of the threads' names.
        threads: Most threads.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_lower_priority)


def _lower_priority() -> None:
    if sys.platform != "linux":
        return
    try:
        # Linux has a priority for each thread, by its native id
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    except OSError as error:
        _LOG.info("background threads keep the normal priority: %s", error)


class AdapterSource(Protocol):
    """Provides adapters by reference. Its methods do not wait for a disk or a network."""

    def resolve(self, ref: str) -> str | Future[str]:
        """Return the digest of a reference, or its future if the look-up takes long.

        Raises:
            AdapterHubError: If the reference is unknown.
        """

    def fetch(self, digest: str) -> Future[Artifact]:
        """Return the future of a verified artifact that was resolved before."""


@dataclass(slots=True)
class FetchResults:
    """Adapters resolved or failed since the last poll.

    Args:
        resolved: Reference to its digest, or to the error of its look-up.
        failed: Digest to the error of its fetch.
    """

    resolved: dict[str, str | AdapterHubError] = field(default_factory=dict)
    failed: dict[str, AdapterHubError] = field(default_factory=dict)


class AdapterFetcher:
    """Fetches adapters from a source and prepares them into host memory.

    Its methods must be called on the engine's thread and do not block, except ``wait``.

    Args:
        source: Source of adapters.
        host: Cache that fetched adapters are put into.
        measure: Function that returns the bytes of an adapter once it is prepared.
        prepare: Function that checks and converts an adapter; called on a background thread.
    """

    def __init__(
        self,
        source: AdapterSource,
        host: HostCache,
        measure: Callable[[Artifact], int],
        prepare: Callable[[Artifact], PreparedAdapter],
    ) -> None:
        self._source = source
        self._host = host
        self._measure = measure
        self._prepare = prepare
        self._pool = background_pool("adapterhub-prepare", 1)
        self._changed = threading.Condition()
        #: digest to the number of the oldest request that needs it
        self._in_flight: dict[str, int] = {}
        #: fetched adapters for which there was no host memory
        self._blocked: dict[str, Artifact] = {}
        self._resolving: set[str] = set()
        self._results = FetchResults()
        self._has_results = False
        self.fetches = 0

    def resolve(self, ref: str) -> str:
        """Return the digest of a reference, or the reference itself while it is looked up.

        The digest is then in ``FetchResults.resolved``.

        Raises:
            AdapterHubError: If the reference is unknown.
        """
        if ref in self._resolving:
            return ref
        found = self._source.resolve(ref)
        if isinstance(found, str):
            return found
        self._resolving.add(ref)
        found.add_done_callback(partial(self._on_resolved, ref))
        return ref

    def is_unresolved(self, key: str) -> bool:
        """Return whether a key is a reference whose digest is being looked up."""
        return key in self._resolving

    def fetch(self, key: str, number: int) -> bool:
        """Fetch an adapter for a request; return whether later requests may fetch theirs."""
        with self._changed:
            if key in self._in_flight:
                self._in_flight[key] = min(number, self._in_flight[key])
                artifact = self._blocked.pop(key, None)
                if artifact is not None:
                    self._begin_preparation(key, artifact)
                return artifact is None
            if len(self._in_flight) >= MAX_FETCHES and not self._displace_later(number):
                return False
            self._in_flight[key] = number
            self.fetches += 1
        self._source.fetch(key).add_done_callback(partial(self._on_fetched, key))
        return True

    def drop_unwanted(self, wanted: Container[str]) -> None:
        """Drop fetched adapters that had no host memory and that no request needs any more."""
        with self._changed:
            for key in [key for key in self._blocked if key not in wanted]:
                self._drop_blocked(key)

    def poll(self) -> FetchResults:
        """Return the results since the last poll."""
        with self._changed:
            results, self._results = self._results, FetchResults()
            self._has_results = False
        self._resolving -= results.resolved.keys()
        return results

    def wait(self, seconds: float) -> None:
        """Wait for a result, at most ``seconds``; return at once if nothing is in flight."""
        with self._changed:
            if (self._in_flight or self._resolving) and not self._has_results:
                self._changed.wait(seconds)

    def close(self) -> None:
        """Cancel preparations that have not begun and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _displace_later(self, number: int) -> bool:
        """Drop a blocked adapter that only later requests need; return whether there was one.

        It would keep its place until host memory is freed, perhaps by the older request.
        """
        latest = max(self._blocked, key=self._in_flight.__getitem__, default=None)
        if latest is None or self._in_flight[latest] < number:
            return False
        self._drop_blocked(latest)
        return True

    def _drop_blocked(self, key: str) -> None:
        del self._blocked[key], self._in_flight[key]

    def _on_resolved(self, ref: str, future: Future[str]) -> None:
        error = _error_of(future, "was not looked up")
        with self._changed:
            self._results.resolved[ref] = future.result() if error is None else error
            self._notify()

    def _on_fetched(self, key: str, future: Future[Artifact]) -> None:
        error = _error_of(future, "was not fetched")
        with self._changed:
            if error is None:
                self._begin_preparation(key, future.result())
            else:
                self._fail(key, error)

    def _begin_preparation(self, key: str, artifact: Artifact) -> None:
        try:
            work = self._pool.submit(self._prepare_into_host, key, artifact)
        except RuntimeError:
            self._fail(key, EngineError("the engine is closed"))
        else:
            work.add_done_callback(partial(self._on_prepared, key, artifact))

    def _prepare_into_host(self, key: str, artifact: Artifact) -> bool:
        """Put an adapter into host memory; return whether there was enough."""
        if not self._host.reserve(key, self._measure(artifact), self._in_flight[key]):
            return False
        try:
            self._host.put(key, self._prepare(artifact))
        finally:
            self._host.cancel_reservation(key)
        return True

    def _on_prepared(self, key: str, artifact: Artifact, future: Future[bool]) -> None:
        error = _error_of(future, "was not prepared")
        with self._changed:
            if error is not None:
                self._fail(key, error)
            elif future.result():
                del self._in_flight[key]
                self._notify()
            else:
                self._blocked[key] = artifact

    def _fail(self, key: str, error: AdapterHubError) -> None:
        del self._in_flight[key]
        self._results.failed[key] = error
        self._notify()

    def _notify(self) -> None:
        self._has_results = True
        self._changed.notify_all()


def _error_of(future: Future[Any], problem: str) -> AdapterHubError | None:
    """Return the error of a future as one of ours, or ``None`` if it has a result."""
    if future.cancelled():
        return EngineError(problem, hint="The source of adapters was closed")
    error = future.exception()
    if error is None or isinstance(error, AdapterHubError):
        return error
    return EngineError(f"{problem}: {error}")
