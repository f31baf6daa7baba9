"""Fair queue of requests: fair between API keys, then between the adapters of a key.

The places in the engine are shared in two levels. A *group* is a key, or an adapter of a key; it is
active while it has requests, and for a while after. Of ``n`` active groups, those that demand no
more than ``1/n`` of the places get them at once. While there is such a group, all others together
leave a share of the places free; otherwise they share all places. So a flood fills all places
while it is alone or among floods, and a caller with few requests still finds a free place and
short steps. Requests start by start-time fair queueing: the group that has received the least
service, measured by the cost of its requests, goes first.

Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from adapterhub.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

#: Shortest and longest suggested wait of a rejected request, in seconds.
_RETRY = (1.0, 60.0)
#: Number of finished requests over which the throughput is measured.
_THROUGHPUT_WINDOW = 32


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that waits or runs.

    Args:
        key: Id of its API key.
        adapter: Adapter that it uses.
        cost: Estimated work, in the same unit for all tickets, such as tokens.
        requested_places: Places that it requests.
        waits: Whether it is in the queue.
        started: Whether it was started.
        places: Places that it occupies; fewer than requested if that exceeds its share.
    """

    key: str
    adapter: str
    cost: float = 1.0
    requested_places: int = 1
    waits: bool = False
    started: bool = False
    places: int = 0


@dataclass(slots=True, eq=False)
class _Group:
    """The requests of a key, of an adapter of a key, or of all keys."""

    occupied: int = 0
    waiting: int = 0
    #: cost of all started requests
    service: float = 0.0
    #: service of the group within this one that started last
    virtual_time: float = 0.0
    last_used: float = 0.0
    groups: dict[str, _Group] = field(default_factory=dict)
    queue: deque[Ticket] = field(default_factory=deque)

    @property
    def demand(self) -> int:
        """Places that it would occupy if it were alone."""
        return self.occupied + self.waiting

    def fair_share(self, places: int) -> int:
        """Return the places that each group within this one is entitled to."""
        return -(-places // max(1, len(self.groups)))

    def limit(self, group: _Group, places: int, reserved_share: float) -> int:
        """Return the most places that a group within this one may occupy now."""
        share = self.fair_share(places)
        heavy = [each for each in self.groups.values() if each.demand > share]
        if group.demand <= share or len(heavy) == len(self.groups):
            return share
        most = max(1, places - math.ceil(places * reserved_share))
        others = sum(each.occupied for each in heavy if each is not group)
        return max(-(-most // len(heavy)), most - others)


class FairQueue:
    """Waiting requests, and the order in which they start. Not thread-safe.

    Args:
        places: Most places that running requests occupy.
        max_waiting: Most requests that wait.
        clock: Clock in seconds.
        reserved_share: Share of the places that groups above their fair share leave free.
        reserved_seconds: Seconds for which a group is active after its last request.
    """

    def __init__(
        self,
        places: int,
        max_waiting: int,
        clock: Callable[[], float],
        *,
        reserved_share: float = 0.85,
        reserved_seconds: float = 30.0,
    ) -> None:
        self._places = places
        self._max_waiting = max_waiting
        self._clock = clock
        self._reserved_share = reserved_share
        self._reserved_seconds = reserved_seconds
        self._all = _Group()
        self._finish_times: deque[float] = deque(maxlen=_THROUGHPUT_WINDOW)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return self._all.waiting

    @property
    def occupied(self) -> int:
        """Number of occupied places."""
        return self._all.occupied

    def push(self, ticket: Ticket) -> Ticket | None:
        """Add a request to the queue.

        If the queue is full, the newest request of the group with most requests is dropped.

        Returns:
            The dropped request.
        """
        dropped = self._drop_for(ticket) if self._all.waiting >= self._max_waiting else None
        now = self._clock()
        self._remove_inactive(now)
        group = self._all
        for name in (ticket.key, ticket.adapter):
            group.waiting += 1
            inner = group.groups.setdefault(name, _Group())
            if not inner.waiting:
                # no credit for the time without requests
                inner.service = max(inner.service, group.virtual_time)
            group = inner
            group.last_used = now
        group.waiting += 1
        group.queue.append(ticket)
        ticket.waits = True
        return dropped

    def start(self) -> Ticket | None:
        """Start and return the next request; ``None`` if none may start now."""
        self._remove_inactive(self._clock())
        ticket = _next(self._all, self._places, self._reserved_share)
        if ticket is None:
            return None
        self._take_out(ticket)
        ticket.started = True
        path = self._path(ticket)
        for outer, inner in pairwise(path):
            outer.virtual_time = inner.service
            inner.service += max(1.0, ticket.cost)
        for group in path:
            group.occupied += ticket.places
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Free the places of a request that was started."""
        now = self._clock()
        for group in self._path(ticket):
            group.occupied -= ticket.places
            group.last_used = now
        self._finish_times.append(now)

    def leave(self, ticket: Ticket) -> None:
        """Remove a request if it waits."""
        if ticket.waits:
            self._take_out(ticket)

    def retry_after(self, key: str) -> float:
        """Return the seconds after which a further request of a key may start."""
        times = self._finish_times
        if len(times) < 2 or times[-1] == times[0]:
            return _RETRY[0]
        group = self._all.groups.get(key, _Group())
        seconds_each = (times[-1] - times[0]) / (len(times) - 1)
        turns = (group.waiting + 1) * max(1, len(self._all.groups))
        return min(max(_RETRY[0], turns * seconds_each), _RETRY[1])

    def _drop_for(self, ticket: Ticket) -> Ticket:
        """Remove the newest request of the group with most waiting requests."""
        own_key = self._all.groups.get(ticket.key, _Group())
        key = max(self._all.groups.values(), key=lambda group: group.waiting, default=own_key)
        if key.waiting <= own_key.waiting + 1:
            key = own_key
        adapter = max(key.groups.values(), key=lambda group: group.waiting, default=_Group())
        own = own_key.groups.get(ticket.adapter, _Group())
        if not adapter.queue or (key is own_key and adapter.waiting <= own.waiting + 1):
            raise QueueFull(
                f"the queue is full with {self._all.waiting} requests",
                retry_after=self.retry_after(ticket.key),
                hint="Try again later",
            )
        dropped = adapter.queue[-1]
        self._take_out(dropped)
        return dropped

    def _take_out(self, ticket: Ticket) -> None:
        *_, adapter = path = self._path(ticket)
        adapter.queue.remove(ticket)
        ticket.waits = False
        for group in path:
            group.waiting -= 1

    def _path(self, ticket: Ticket) -> tuple[_Group, _Group, _Group]:
        key = self._all.groups[ticket.key]
        return self._all, key, key.groups[ticket.adapter]

    def _remove_inactive(self, now: float) -> None:
        for outer in (*self._all.groups.values(), self._all):
            for name, group in list(outer.groups.items()):
                idle = now - group.last_used >= self._reserved_seconds
                if idle and not group.occupied and not group.waiting:
                    del outer.groups[name]


def _next(outer: _Group, places: int, reserved_share: float) -> Ticket | None:
    """Return the next request of a group with so many places.

    A group at its limit is skipped. A group that is next and only lacks free places blocks the
    ones after it; otherwise small requests could delay a large one forever.
    """
    waiting = [group for group in outer.groups.values() if group.waiting]
    for group in sorted(waiting, key=lambda group: group.service):
        limit = outer.limit(group, places, reserved_share)
        if group.queue:
            ticket = group.queue[0]
            ticket.places = min(ticket.requested_places, outer.fair_share(places))
            found = ticket if group.occupied + ticket.places <= limit else None
        else:
            found = _next(group, limit, reserved_share)
        if found is not None:
            return found if outer.occupied + found.places <= places else None
    return None
