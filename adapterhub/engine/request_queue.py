"""The one queue of waiting requests ahead of the scheduler."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, TypeAlias

from adapterhub.engine.pooling_requests import PoolingRequest
from adapterhub.engine.sequences import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator

WaitingRequest: TypeAlias = Sequence | PoolingRequest


class RequestQueue:
    """Waiting sequences and pooling requests, in order of arrival.

    It holds those that wait for adapters too. A pooling request stays until all its sequences
    are computed; a sequence leaves when it starts and returns to its place when it is preempted.
    """

    def __init__(self) -> None:
        self._waiting: list[WaitingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[WaitingRequest]:
        return iter(self._waiting)

    def __contains__(self, request: WaitingRequest) -> bool:
        place = bisect_left(self._waiting, request.number, key=_number)
        return self._waiting[place : place + 1] == [request]

    def add(self, request: WaitingRequest) -> None:
        """Add a request at its place in the order of arrival."""
        insort(self._waiting, request, key=_number)

    def remove(self, request: WaitingRequest) -> None:
        """Remove a request if it is waiting."""
        if request in self:
            del self._waiting[bisect_left(self._waiting, request.number, key=_number)]

    def sequences(self) -> Iterator[Sequence]:
        """Iterate over the sequences that wait to generate."""
        return (each for each in self._waiting if isinstance(each, Sequence))

    def pooling(self) -> Iterator[PoolingRequest]:
        """Iterate over the pooling requests."""
        return (each for each in self._waiting if isinstance(each, PoolingRequest))

    def needing_adapters(self) -> list[WaitingRequest]:
        """Return the requests whose adapters must be fetched or kept.

        Of validated pooling requests, which may be many, the first for each set of adapters
        represents the others.
        """
        seen: set[tuple[tuple[str, float], ...]] = {()}
        found = []
        for request in self._waiting:
            if isinstance(request, PoolingRequest) and request.validated:
                if request.adapters in seen:
                    continue
                seen.add(request.adapters)
            found.append(request)
        return found


def _number(request: WaitingRequest) -> int:
    return request.number
