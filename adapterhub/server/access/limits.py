"""How often and how much at once a key may ask."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.access import Caller

#: What ``Caller.rate`` counts over, in seconds.
WINDOW = 60.0
#: What to wait, in seconds, until one of the requests at work may be done.
_AT_WORK = 1.0


@dataclass(slots=True)
class _Use:
    """What a key does now, and when it began what it did in the last minute."""

    running: int = 0
    began: deque[float] = field(default_factory=deque)


class Limits:
    """Counts the requests of each key that has limits.

    Args:
        clock: of seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def check(self, caller: Caller) -> None:
        """Require that a caller may begin one more request; in any minute at most ``rate`` do.

        Raises:
            QueueFull: with when to try again.
        """
        use = self._uses.get(caller.key_id or "")
        if use is None:
            return
        if caller.concurrency is not None and use.running >= caller.concurrency:
            raise QueueFull(
                f"the key has {use.running} requests at work and may have {caller.concurrency}",
                retry_after=_AT_WORK,
                hint="Wait for one of them, or ask for a key with a higher limit",
            )
        if caller.rate is None:
            return
        now = self._clock()
        _forget(use, now)
        if len(use.began) >= caller.rate:
            # where the limit was lowered meanwhile, more than one has to grow old
            last = use.began[len(use.began) - caller.rate]
            raise QueueFull(
                f"the key began {len(use.began)} requests in the last minute "
                f"and may begin {caller.rate}",
                retry_after=last + WINDOW - now,
                hint="Ask less often, or ask for a key with a higher limit",
            )

    def enter(self, caller: Caller) -> None:
        """Count a request that begins."""
        if caller.key_id is None or (caller.rate is None and caller.concurrency is None):
            return
        use = self._uses.setdefault(caller.key_id, _Use())
        use.running += 1
        if caller.rate is not None:
            use.began.append(self._clock())

    def leave(self, caller: Caller) -> None:
        """Count a request that is done; once for each ``enter``, with the same caller."""
        if caller.key_id is None or (caller.rate is None and caller.concurrency is None):
            return
        use = self._uses[caller.key_id]
        use.running -= 1
        _forget(use, self._clock())
        if not use.running and not use.began:
            del self._uses[caller.key_id]


def _forget(use: _Use, now: float) -> None:
    while use.began and use.began[0] + WINDOW <= now:
        use.began.popleft()
