"""Connections with deadlines: uvicorn's own protocol waits for heads and readers for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from adapterhub.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one connection.

    Args:
        header_timeout: for the head of each request to come.
        max_header_bytes: in bytes.
        write_timeout: for which the client may read nothing while it is written to.
    """

    header_timeout: float
    max_header_bytes: int
    write_timeout: float


class GuardedConnection(HttpToolsProtocol):
    """One connection of a client, closed where the client is too slow.

    Args:
        limits: of the connection.
        options: of uvicorn's protocol.
    """

    def __init__(self, limits: ConnectionLimits, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._in_head = False
        self._head_read = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(HIGH_WATER_LIMIT)
        self._await_head(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in (self._head_timer, self._rest_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as far as a head may be long."""
        if self._in_head:
            self._head_read += len(data)
        super().data_received(data)
        if self._in_head and self._head_read > self._limits.max_header_bytes:
            self._refuse(431)
        elif not self._in_head and self._answered() and self._rest_timer is None:
            # the rest of a body that nobody reads; uvicorn waits for its end without a limit
            seconds = self._limits.header_timeout
            self._rest_timer = self.loop.call_later(seconds, self.transport.close)

    def on_message_begin(self) -> None:
        """Wait for a head, of which the first byte came."""
        super().on_message_begin()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        if not self._in_head:
            self._await_head(1)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is left out."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin with the request."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def _answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _await_head(self, read: int) -> None:
        self._in_head, self._head_read = True, read
        self._head_timer = self.loop.call_later(self._limits.header_timeout, self._refuse, 408)

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if self._head_read:
            self.transport.write(
                STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return what ``uvicorn.Config`` is given beside the application and its address."""
    limits = ConnectionLimits(
        settings.header_timeout, settings.max_header_bytes, settings.write_timeout
    )

    def connection(*args: Any, **options: Any) -> GuardedConnection:
        return GuardedConnection(limits, *args, **options)

    return {
        "http": connection,
        "ws": "none",
        "limit_concurrency": settings.max_connections,
        "timeout_keep_alive": settings.keep_alive_timeout,
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "server_header": False,
        # each request is logged by the application, which knows more of it
        "access_log": False,
        "log_config": None,
        "log_level": settings.log_level,
    }
