"""uvicorn's configuration, with the deadlines of a connection that uvicorn has no setting for."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from adapterhub.server.settings import ServerSettings


class DeadlineProtocol(HttpToolsProtocol):
    """HTTP connection that is closed when its client is too slow.

    uvicorn bounds idle connections, but waits forever for the headers of a request and for a
    client to read its response, neither of which an application sees. Without these deadlines,
    clients that send or read nothing keep connections and sequences. Only the callbacks of
    asyncio's protocols and of httptools' parser are extended.
    """

    def __init__(self, settings: ServerSettings, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings = settings
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first headers."""
        super().connection_made(transport)
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
        if self._header_timer and self._header_bytes > self._settings.max_header_bytes:
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
        """Start the deadline for the client to read."""
        super().pause_writing()
        timeout = self._settings.write_timeout
        self._write_timer = asyncio.get_running_loop().call_later(timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the deadline for the client to read."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def _start_headers(self, received: int) -> None:
        self._header_bytes = received
        self._header_timer = asyncio.get_running_loop().call_later(
            self._settings.header_timeout, self._reject, b"408 Request Timeout"
        )

    def _reject(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._header_bytes:
            head = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head)
        self.transport.close()


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the options of ``uvicorn.Config`` besides the application and its address."""
    return {
        "http": partial(DeadlineProtocol, settings),
        "ws": "none",
        "limit_concurrency": settings.max_connections,
        "timeout_keep_alive": settings.keep_alive_timeout,
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "server_header": False,
        # the application logs each request, with its adapters and key
        "access_log": False,
        "log_config": None,
        "log_level": settings.log_level,
    }
