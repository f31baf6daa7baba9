"""Rate and concurrency limits of API keys."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from adapterhub.access import Caller

#: Window of ``Caller.rate``, in seconds.
WINDOW = 60.0
#: Suggested wait for a running request to finish, in seconds.
_CONCURRENCY_RETRY = 1.0


@dataclass(slots=True)
class _Usage:
    """Running requests of a key, and the start times of those in the window."""

    running: int = 0
    starts: deque[float] = field(default_factory=deque)


class RateLimits:
    """Counts the requests of each key that has limits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count a request of a caller while the block runs."""
        if caller.key_id is None or (caller.rate is None and caller.concurrency is None):
            yield
            return
        usage = self._usage.get(caller.key_id, _Usage())
        self._check(caller, usage)
        self._usage[caller.key_id] = usage
        usage.running += 1
        if caller.rate is not None:
            usage.starts.append(self._clock())
        try:
            yield
        finally:
            usage.running -= 1
            _drop_old(usage, self._clock())
            if not usage.running and not usage.starts:
                del self._usage[caller.key_id]

    def _check(self, caller: Caller, usage: _Usage) -> None:
        if caller.concurrency is not None and usage.running >= caller.concurrency:
            raise QueueFull(
                f"the API key has {usage.running} running requests; "
                f"its limit is {caller.concurrency}",
                retry_after=_CONCURRENCY_RETRY,
                hint="Wait until one finishes, or get a key with a higher limit",
            )
        now = self._clock()
        _drop_old(usage, now)
        if caller.rate is not None and len(usage.starts) >= caller.rate:
            # after the limit was lowered, several starts have to leave the window
            last = usage.starts[len(usage.starts) - caller.rate]
            raise QueueFull(
                f"the API key started {len(usage.starts)} requests in the last minute; "
                f"its limit is {caller.rate}",
                retry_after=last + WINDOW - now,
                hint="Send requests less often, or get a key with a higher limit",
            )


def _drop_old(usage: _Usage, now: float) -> None:
    while usage.starts and usage.starts[0] + WINDOW <= now:
        usage.starts.popleft()
