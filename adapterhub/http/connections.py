"""Limits of connections that uvicorn does not have, shared by both HTTP servers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Lowest rate at which a client may read its response, in bytes per second.
_MIN_READ_RATE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the connections of one server.

    Args:
        max_connections: Most connections; further ones get the status 503.
        max_header_bytes: Largest request line and headers of a request, in bytes.
        header_timeout: Seconds within which the headers of a request must arrive.
        write_timeout: Seconds for which a client may read nothing of its response.
        keep_alive_timeout: Seconds for which an idle connection is kept open.
        shutdown_timeout: Seconds that running requests get to finish after SIGTERM.
    """

    max_connections: int = 4096
    max_header_bytes: int = 64 * 1024
    header_timeout: float = 10.0
    write_timeout: float = 30.0
    keep_alive_timeout: int = 15
    shutdown_timeout: int = 30


class DeadlineProtocol(HttpToolsProtocol):
    """HTTP connection that is closed when its client is too slow.

    uvicorn bounds idle connections, but waits forever for the headers of a request and for a
    client to read its response, neither of which an application sees. Without these deadlines,
    clients that send or read nothing keep connections and sequences. Only the callbacks of
    asyncio's protocols and of httptools' parser are extended.
    """

    def __init__(self, limits: ConnectionLimits, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first headers."""
        super().connection_made(transport)
        # the deadline covers the last bytes of a response too
        transport.set_write_buffer_limits(high=0)
        self._start_headers(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data and check the size of the headers."""
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer and self._header_bytes > self._limits.max_header_bytes:
            self._reject(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Start the deadline of the headers of a further request."""
        super().on_message_begin()
        if self._header_timer is None:
            self._start_headers(1)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after the body are ignored."""
        if self._header_timer:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Cancel the deadline of the headers and start the request."""
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Start the deadline for the client to read; called when bytes wait to be sent."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Cancel the deadline for the client to read; called when all bytes are sent."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def _watch_reading(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        timeout = self._limits.write_timeout
        self._write_timer = asyncio.get_running_loop().call_later(
            timeout, self._check_reading, max(0, waiting - int(_MIN_READ_RATE * timeout))
        )

    def _check_reading(self, allowed: int) -> None:
        if self.transport.get_write_buffer_size() > allowed:
            self.transport.abort()
        else:
            self._watch_reading()

    def _start_headers(self, received: int) -> None:
        self._header_bytes = received
        self._header_timer = asyncio.get_running_loop().call_later(
            self._limits.header_timeout, self._reject, b"408 Request Timeout"
        )

    def _reject(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._header_bytes:
            head = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head)
        self.transport.close()


def uvicorn_options(limits: ConnectionLimits, log_level: str) -> dict[str, Any]:
    """Return the options of ``uvicorn.Config`` besides the application and its address."""
    return {
        "http": partial(DeadlineProtocol, limits),
        "ws": "none",
        "limit_concurrency": limits.max_connections,
        "timeout_keep_alive": limits.keep_alive_timeout,
        "timeout_graceful_shutdown": limits.shutdown_timeout,
        "server_header": False,
        # the applications log each request themselves
        "access_log": False,
        "log_config": None,
        "log_level": log_level,
    }
