"""Whose turn it is: fair between keys, then between the adapters of a key.

The places at work are shared in two levels. A *part* is a key, or an adapter of a key; it counts
while it has requests, and for a while after. Of ``n`` parts that count, those that ask for no more
than ``1/n`` of the places get what they ask for at once. All others together leave some places
free as long as there is such a one, and share all places where there is none. So a flood fills all
places while it is alone or among floods; once another asks for little, that one finds a place at
once, and a batch whose steps are not long. Turns are given by start-time fair queueing: the part
that was given least goes first, counted by the cost of what it asked for.

Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Shortest and longest time that a refused request is told to wait, in seconds.
_RETRY = (1.0, 60.0)
#: Ends of requests that the pace is measured over.
_PACE = 32


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that waits for its turn, or has it.

    Args:
        key: whose it is.
        adapter: that it asks for.
        cost: how much work it may be, in any unit that all tickets share, such as tokens.
        rows: places that it takes.
        waits: whether it is in the queue.
        started: whether it had its turn.
        places: that it holds since; fewer than ``rows`` where it asked for more than its share.
    """

    key: str
    adapter: str
    cost: float = 1.0
    rows: int = 1
    waits: bool = False
    started: bool = False
    places: int = 0


@dataclass(slots=True, eq=False)
class _Part:
    """A key, or an adapter of a key, or the whole."""

    held: int = 0
    waiting: int = 0
    spent: float = 0.0
    turn: float = 0.0
    used: float = 0.0
    parts: dict[str, _Part] = field(default_factory=dict)
    queue: deque[Ticket] = field(default_factory=deque)

    @property
    def demand(self) -> int:
        """What it would hold if it were alone."""
        return self.held + self.waiting

    def fair(self, places: int) -> int:
        """Return what each of its parts has a right to."""
        return -(-places // max(1, len(self.parts)))

    def room(self, part: _Part, places: int, reserved_share: float) -> int:
        """Return how many of this one's places a part may hold now."""
        fair = self.fair(places)
        heavy = [each for each in self.parts.values() if each.demand > fair]
        if part.demand <= fair or len(heavy) == len(self.parts):
            return fair
        most = max(1, places - math.ceil(places * reserved_share))
        others = sum(each.held for each in heavy if each is not part)
        return max(-(-most // len(heavy)), most - others)


class FairQueue:
    """Requests that wait, and which of them starts next. For one thread; knows no event loop.

    Args:
        places: requests, or rows, that may be at work at once.
        waiting: most requests that wait.
        clock: of seconds.
        reserved_share: of the places, left free by those that ask for more than their share.
        reserved_seconds: for which a part counts after its last request.
    """

    def __init__(
        self,
        places: int,
        waiting: int,
        clock: Callable[[], float],
        *,
        reserved_share: float = 0.85,
        reserved_seconds: float = 30.0,
    ) -> None:
        self._places = places
        self._most = waiting
        self._clock = clock
        self._spare_share = reserved_share
        self._spare_seconds = reserved_seconds
        self._all = _Part()
        self._ends: deque[float] = deque(maxlen=_PACE)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._all.waiting

    @property
    def held(self) -> int:
        """Places that are taken."""
        return self._all.held

    def push(self, ticket: Ticket) -> Ticket | None:
        """Let a request wait.

        Where the queue is full, the newest request of the one who has most in it makes room.

        Returns:
            The request that was dropped for it.

        Raises:
            QueueFull: when that would be this one itself.
        """
        dropped = self._drop_for(ticket) if self._all.waiting >= self._most else None
        now = self._clock()
        self._forget_idle(now)
        part = self._all
        for name in (ticket.key, ticket.adapter):
            part.waiting += 1
            inner = part.parts.setdefault(name, _Part())
            if not inner.waiting:
                # no credit for the time in which it asked for nothing
                inner.spent = max(inner.spent, part.turn)
            part = inner
            part.used = now
        part.waiting += 1
        part.queue.append(ticket)
        ticket.waits = True
        return dropped

    def start(self) -> Ticket | None:
        """Give the next turn; ``None`` where none may start now."""
        self._forget_idle(self._clock())
        ticket = _next(self._all, self._places, self._spare_share)
        if ticket is None:
            return None
        self._take_out(ticket)
        ticket.started = True
        for whole, part in zip(self._way(ticket), self._way(ticket)[1:], strict=False):
            whole.turn = part.spent
            part.spent += max(1.0, ticket.cost)
        for part in self._way(ticket):
            part.held += ticket.places
        return ticket

    def end(self, ticket: Ticket) -> None:
        """Give the places of a request that had its turn to others."""
        now = self._clock()
        for part in self._way(ticket):
            part.held -= ticket.places
            part.used = now
        self._ends.append(now)

    def leave(self, ticket: Ticket) -> None:
        """Take out a request if it waits."""
        if ticket.waits:
            self._take_out(ticket)

    def retry_after(self, key: str) -> float:
        """Return the seconds after which one more request of a key might have its turn."""
        part = self._all.parts.get(key, _Part())
        if len(self._ends) < 2 or self._ends[-1] == self._ends[0]:
            return _RETRY[0]
        seconds_each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        turns = (part.waiting + 1) * max(1, len(self._all.parts))
        return min(max(_RETRY[0], turns * seconds_each), _RETRY[1])

    def _drop_for(self, ticket: Ticket) -> Ticket:
        """Take out the newest request of who has most in the queue."""
        own_key = self._all.parts.get(ticket.key, _Part())
        key = max(self._all.parts.values(), key=lambda part: part.waiting, default=own_key)
        if key.waiting <= own_key.waiting + 1:
            key = own_key
        adapter = max(key.parts.values(), key=lambda part: part.waiting, default=_Part())
        own = own_key.parts.get(ticket.adapter, _Part())
        if not adapter.queue or (key is own_key and adapter.waiting <= own.waiting + 1):
            raise QueueFull(
                f"{self._all.waiting} requests wait already",
                retry_after=self.retry_after(ticket.key),
                hint="Try again later",
            )
        dropped = adapter.queue[-1]
        self._take_out(dropped)
        return dropped

    def _take_out(self, ticket: Ticket) -> None:
        *_, adapter = way = self._way(ticket)
        adapter.queue.remove(ticket)
        ticket.waits = False
        for part in way:
            part.waiting -= 1

    def _way(self, ticket: Ticket) -> tuple[_Part, _Part, _Part]:
        key = self._all.parts[ticket.key]
        return self._all, key, key.parts[ticket.adapter]

    def _forget_idle(self, now: float) -> None:
        for whole in (*self._all.parts.values(), self._all):
            for name in [name for name, part in whole.parts.items() if self._idle(part, now)]:
                del whole.parts[name]

    def _idle(self, part: _Part, now: float) -> bool:
        return not part.held and not part.waiting and now - part.used >= self._spare_seconds


def _next(whole: _Part, places: int, reserved_share: float) -> Ticket | None:
    """Return the request whose turn it is in a part with so many places.

    A part that has all it may have is passed over. One whose turn it is, and which only lacks
    free places, is waited for: else small requests would keep a large one out for ever.
    """
    for part in _by_turn(whole):
        room = whole.room(part, places, reserved_share)
        if part.queue:
            ticket = part.queue[0]
            ticket.places = min(ticket.rows, whole.fair(places))
            found = ticket if part.held + ticket.places <= room else None
        else:
            found = _next(part, room, reserved_share)
        if found is not None:
            return found if whole.held + found.places <= places else None
    return None


def _by_turn(whole: _Part) -> Iterator[_Part]:
    waiting = [part for part in whole.parts.values() if part.waiting]
    yield from sorted(waiting, key=lambda part: part.spent)
