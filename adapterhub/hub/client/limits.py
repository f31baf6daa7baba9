"""Limits of what a server may send: bytes, and seconds until all of it has arrived.

A Hub that is compromised, or that an address names by mistake, may send without end. Lengths that
it announces are not trusted: the bytes that arrive are counted.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Timer
from typing import TYPE_CHECKING, Any

import httpx2

from adapterhub.errors import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Timeouts in seconds for a connection, and for the next bytes of a response.
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
#: Seconds that a response may take whatever its size, and bytes that allow a second more.
BASE_SECONDS = 120.0
MIN_RATE = 32 * 1024
#: Largest list of files, and other response without a file, in bytes.
MAX_LISTING = 8 * 1024 * 1024
#: Headers that make huggingface_hub fetch a file from a server of another kind, unbounded.
_XET_HEADERS = ("x-xet-hash", "x-xet-refresh-route", "x-xet-cas-url", "x-xet-access-token")


class _Limit:
    """Limit of the responses within a block.

    Args:
        place: Name of what is fetched, for messages.
        size: Largest body with status 200 or 206, in bytes.
    """

    def __init__(self, place: str, size: int) -> None:
        self.place = place
        self.size = size
        self._seconds = BASE_SECONDS + size / MIN_RATE
        self._due = time.monotonic() + self._seconds
        self._sockets: list[socket.socket] = []
        # ends the wait for headers that arrive byte by byte, which no timeout of a read does
        self._timer = Timer(self._seconds, self._disconnect)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        """Seconds until all must have arrived."""
        return self._due - time.monotonic()

    def require_time(self) -> None:
        """Raise an error at the deadline."""
        if self.left <= 0:
            raise self.too_slow()

    def too_slow(self) -> TransferError:
        """Return the error for what has not arrived in time."""
        return TransferError(
            f"did not arrive within {self._seconds:.0f} seconds",
            place=self.place,
            hint="The Hub is too slow, or sends without end; nothing was changed here",
        )

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a connection; called by the client."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    def close(self) -> None:
        """Stop the clock."""
        self._timer.cancel()

    def _disconnect(self) -> None:
        for each in self._sockets:
            with suppress(OSError, ValueError):
                each.shutdown(socket.SHUT_RDWR)


_LIMIT: ContextVar[_Limit | None] = ContextVar("hub_response_limit", default=None)


@contextmanager
def response_limit(place: str, size: int) -> Iterator[None]:
    """Limit the bytes of each response, and the seconds of all, that this thread receives.

    Raises:
        TransferError: Within the block, when a response exceeds the limit.
    """
    limit = _Limit(place, size)
    token = _LIMIT.set(limit)
    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError) as error:
        if limit.left > 0:
            raise
        raise limit.too_slow() from error
    finally:
        _LIMIT.reset(token)
        limit.close()


def limit_request(request: httpx2.Request) -> None:
    """Set the timeouts of a request; a hook of the client."""
    # the library disables timeouts per request, so a default of the client has no effect
    timeouts = request.extensions.get("timeout", {})
    default = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT).as_dict()
    given = {kind: value for kind, value in timeouts.items() if value is not None}
    wanted = default | given
    limit = _LIMIT.get()
    if limit is not None:
        limit.require_time()
        wanted = {kind: min(value, limit.left) for kind, value in wanted.items()}
        # the size of a compressed body is not that of the file
        request.headers["Accept-Encoding"] = "identity"
        # a connection of its own, which can be closed at the deadline
        request.headers["Connection"] = "close"
        request.extensions = {**request.extensions, "trace": limit.trace}
    request.extensions = {**request.extensions, "timeout": wanted}


def limit_response(response: httpx2.Response) -> None:
    """Count the bytes of a response; a hook of the client."""
    limit = _LIMIT.get()
    if limit is None:
        return
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise TransferError(f"sends a body with the encoding {encoding[:40]!r}", place=limit.place)
    for name in _XET_HEADERS:
        response.headers.pop(name, None)
    if "xet-auth" in response.headers.get("link", ""):
        del response.headers["link"]
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Counted(response.stream, limit, whole=response.status_code in (200, 206))


class _Counted(httpx2.SyncByteStream):
    """Body of a response that ends with an error where it exceeds the limit."""

    def __init__(self, stream: httpx2.SyncByteStream, limit: _Limit, *, whole: bool) -> None:
        self._stream = stream
        self._limit = limit
        self._size = limit.size if whole else MAX_LISTING

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in self._stream:
            received += len(chunk)
            if received > self._size:
                raise TransferError(
                    f"sends more than the {self._size} bytes that are allowed",
                    place=self._limit.place,
                    hint="The transfer was stopped, and nothing was changed here",
                )
            self._limit.require_time()
            yield chunk

    def close(self) -> None:
        """Close the connection or return it to the pool."""
        self._stream.close()
