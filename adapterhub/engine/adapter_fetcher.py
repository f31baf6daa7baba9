"""Where the engine gets adapters from that nobody loaded, and how they arrive in host memory.

A row that names an adapter waits in the queue until it is there; meanwhile others run. What
comes is fetched by the source on threads of its own, made ready here on one of low priority, and
given to the host tier when that has room for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from threading import Condition
from typing import TYPE_CHECKING, Any, Protocol

from adapterhub.engine.background import background_pool
from adapterhub.errors import AdapterHubError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from concurrent.futures import Future

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.engine.host_cache import HostCache, Prepared

#: Most adapters that are on their way at once; the others wait in the order of their rows.
MAX_UNDER_WAY = 4


class AdapterSource(Protocol):
    """Knows adapters by reference. Its methods don't wait for a disk or a network."""

    def resolve(self, ref: str) -> str | Future[str]:
        """Return the digest that a reference means now, or its future where that takes long.

        Raises:
            AdapterHubError: when it means nothing.
        """

    def fetch(self, digest: str) -> Future[Artifact]:
        """Return the future of an artifact that was resolved before, verified."""


@dataclass(slots=True)
class FetchResults:
    """What came since it was last asked for.

    Args:
        resolved: reference to its digest, or to why it has none.
        failed: digest to why its adapter can't be had.
    """

    resolved: dict[str, str | AdapterHubError] = field(default_factory=dict)
    failed: dict[str, AdapterHubError] = field(default_factory=dict)


class AdapterFetcher:
    """Adapters on their way from a source into host memory.

    Everything may be called on the engine's thread only, and does not wait, except ``wait``.
    """

    def __init__(
        self,
        source: AdapterSource,
        host: HostCache,
        measure: Callable[[Artifact], int],
        prepare: Callable[[Artifact], Prepared],
    ) -> None:
        """Start with nothing under way.

        Args:
            source: of the adapters.
            host: that they are put into.
            measure: returns the bytes that an adapter takes once it is ready.
            prepare: checks an adapter and makes it ready; called on a background thread.
        """
        self._source = source
        self._host = host
        self._measure = measure
        self._prepare = prepare
        self._pool = background_pool("adapterhub-prepare", 1)
        self._changed = Condition()
        #: digest to the number of the oldest row that waits for it
        self._under_way: dict[str, int] = {}
        #: fetched, but there was no room in host memory
        self._shut_out: dict[str, Artifact] = {}
        self._resolving: set[str] = set()
        self._news = FetchResults()
        self._anything_new = False
        self.fetches = 0

    def resolve(self, ref: str) -> str:
        """Return the digest of a reference, or the reference itself while it is looked up.

        ``FetchResults.resolved`` then tells the digest.

        Raises:
            AdapterHubError: when it means nothing.
        """
        if ref in self._resolving:
            return ref
        found = self._source.resolve(ref)
        if isinstance(found, str):
            return found
        self._resolving.add(ref)
        found.add_done_callback(partial(self._resolved, ref))
        return ref

    def is_reference(self, key: str) -> bool:
        """Return whether a key stands for a digest that is looked up still."""
        return key in self._resolving

    def want(self, key: str, number: int) -> bool:
        """Let an adapter come for a row; return whether younger rows may ask for theirs.

        Args:
            key: digest.
            number: of the row, which its room in host memory goes by.
        """
        with self._changed:
            if key in self._under_way:
                self._under_way[key] = min(number, self._under_way[key])
                artifact = self._shut_out.pop(key, None)
                if artifact is not None:
                    self._begin_preparing(key, artifact)
                return artifact is None
            if len(self._under_way) >= MAX_UNDER_WAY and not self._displace_younger(number):
                return False
            self._under_way[key] = number
            self.fetches += 1
        self._source.fetch(key).add_done_callback(partial(self._fetched, key))
        return True

    def drop_unwanted(self, wanted: Container[str]) -> None:
        """Let go of what was fetched, found no room, and no row waits for any more."""
        with self._changed:
            for key in [key for key in self._shut_out if key not in wanted]:
                self._drop_shut_out(key)

    def take(self) -> FetchResults:
        """Return what is new."""
        with self._changed:
            news, self._news = self._news, FetchResults()
            self._anything_new = False
        self._resolving -= news.resolved.keys()
        return news

    def wait(self, seconds: float) -> None:
        """Wait until something is new, if anything can be; at most so long."""
        with self._changed:
            if (self._under_way or self._resolving) and not self._anything_new:
                self._changed.wait(seconds)

    def close(self) -> None:
        """Drop what is not begun, and wait for the rest."""
        self._pool.shutdown(cancel_futures=True)

    def _displace_younger(self, number: int) -> bool:
        """Let go of what only younger rows wait for, if it found no room in host memory.

        They would hold their places until room comes, which the older row may have to give.
        """
        youngest = max(self._shut_out, key=self._under_way.__getitem__, default=None)
        if youngest is None or self._under_way[youngest] < number:
            return False
        self._drop_shut_out(youngest)
        return True

    def _drop_shut_out(self, key: str) -> None:
        del self._shut_out[key], self._under_way[key]

    def _resolved(self, ref: str, future: Future[str]) -> None:
        error = _error_of(future, "was not looked up")
        with self._changed:
            self._news.resolved[ref] = future.result() if error is None else error
            self._tell()

    def _fetched(self, key: str, future: Future[Artifact]) -> None:
        error = _error_of(future, "was not fetched")
        with self._changed:
            if error is None:
                self._begin_preparing(key, future.result())
            else:
                self._fail(key, error)

    def _begin_preparing(self, key: str, artifact: Artifact) -> None:
        try:
            work = self._pool.submit(self._bring_in, key, artifact)
        except RuntimeError:
            self._fail(key, EngineError("the engine is closed"))
        else:
            work.add_done_callback(partial(self._prepared, key, artifact))

    def _bring_in(self, key: str, artifact: Artifact) -> bool:
        """Put an adapter into host memory; return whether there was room."""
        if not self._host.reserve(key, self._measure(artifact), self._under_way[key]):
            return False
        try:
            self._host.put(key, self._prepare(artifact))
        finally:
            self._host.give_up(key)
        return True

    def _prepared(self, key: str, artifact: Artifact, future: Future[bool]) -> None:
        error = _error_of(future, "was not made ready")
        with self._changed:
            if error is not None:
                self._fail(key, error)
            elif future.result():
                del self._under_way[key]
                self._tell()
            else:
                self._shut_out[key] = artifact

    def _fail(self, key: str, error: AdapterHubError) -> None:
        del self._under_way[key]
        self._news.failed[key] = error
        self._tell()

    def _tell(self) -> None:
        self._anything_new = True
        self._changed.notify_all()


def _error_of(future: Future[Any], problem: str) -> AdapterHubError | None:
    """Return why a future has no result, as an error of ours, or ``None`` where it has one."""
    if future.cancelled():
        return EngineError(problem, hint="The source of adapters was closed")
    error = future.exception()
    if error is None or isinstance(error, AdapterHubError):
        return error
    return EngineError(f"{problem}: {error}")
