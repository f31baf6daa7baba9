"""Limits of one request: size and duration of its body, duration of the whole, and disconnects."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from adapterhub.http.bodies import check_body_headers
from adapterhub.http.errors import HTTPError, too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)


class RequestLimits:
    """ASGI middleware that enforces the limits of every request.

    The status is 413 for a body that is too long, 408 for one that is too slow, 415 for a
    compressed one, and 504 for a request that exceeds its deadline before its response started.
    The application is cancelled at the deadline, and when the client disconnects.
    An exception that the application raises becomes an error response.

    Args:
        app: Application behind the limits.
        error_response: Function that makes the response to an exception.
        max_body_bytes: Largest body, in bytes.
        body_timeout: Seconds within which the whole body must arrive.
        request_timeout: Seconds from the request to the end of its response.
        min_rate: Bytes received or sent that extend both by a second, for large files; by default
            no number of bytes extends them.
        timeout_hint: How a client can stay within the time.
        body_limits: Largest body of paths that begin so, in place of ``max_body_bytes``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        error_response: Callable[[Exception], Response],
        max_body_bytes: int,
        body_timeout: float,
        request_timeout: float,
        min_rate: float = math.inf,
        timeout_hint: str = "",
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._error_response = error_response
        self._max_body_bytes = max_body_bytes
        self._body_timeout = body_timeout
        self._request_timeout = request_timeout
        self._min_rate = min_rate
        self._timeout_hint = timeout_hint
        self._body_limits = dict(body_limits or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limits = (
            size for path, size in self._body_limits.items() if scope["path"].startswith(path)
        )
        limit = next(limits, self._max_body_bytes)
        body = _Body(receive, headers, limit, self._body_timeout, self._min_rate)
        response = _ResponseTracker(send, body)
        try:
            check_body_headers(headers, limit)
            await self._run(scope, body, response)
        except _Disconnected:
            _LOG.debug("the client disconnected")
        except Exception as error:
            if response.started:
                # the client sees by the end of the connection that the response is incomplete
                if not isinstance(error, HTTPError):
                    raise
                _LOG.warning("%s", error)
                return
            await self._error_response(error)(scope, body.receive, response.send)

    async def _run(self, scope: Scope, body: _Body, response: _ResponseTracker) -> None:
        watcher: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._request_timeout) as deadline:

                async def watch() -> None:
                    await body.wait_for_disconnect()
                    if not (response.complete or deadline.expired()):
                        deadline.reschedule(0)

                watcher = asyncio.create_task(watch())
                begin = deadline.when() or 0.0

                def extend() -> None:
                    if not (body.disconnected.is_set() or deadline.expired()):
                        deadline.reschedule(begin + (body.size + response.size) / self._min_rate)

                body.on_message = response.on_message = extend
                await self._app(scope, body.receive, response.send)
        except TimeoutError:
            if not deadline.expired():
                raise
            if body.disconnected.is_set():
                raise _Disconnected from None
            raise HTTPError(
                504,
                f"took longer than {self._request_timeout:g} seconds",
                code="timeout",
                hint=self._timeout_hint,
            ) from None
        finally:
            # the response to an error is sent after the deadline, which can't be moved any more
            body.on_message = response.on_message = _nothing
            if watcher is not None:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher


def _nothing() -> None:
    """Do nothing at a message."""


class _Disconnected(Exception):
    """The client closed its connection before the response was complete."""


class _ResponseTracker:
    """Sends a response and closes the connection after it when the body was not read."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send = send
        self._body = body
        self.started = False
        self.complete = False
        self.size = 0
        self.on_message: Callable[[], None] = _nothing

    async def send(self, message: Message) -> None:
        """Send the next message."""
        if self._body.disconnected.is_set():
            raise _Disconnected
        if message["type"] == "http.response.start":
            self.started = True
            if self._body.unread:
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)
        self.size += len(message.get("body", b""))
        self.on_message()


class _Body:
    """The body of a request, received within its limits.

    Args:
        receive: ASGI's function.
        headers: Headers of the request.
        limit: Largest size, in bytes.
        timeout: Seconds from now within which all of it must arrive.
        min_rate: Bytes that extend the timeout by a second.
    """

    def __init__(
        self, receive: Receive, headers: Headers, limit: int, timeout: float, min_rate: float
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._timeout = timeout
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._min_rate = min_rate
        self.size = 0
        self.on_message: Callable[[], None] = _nothing
        self._empty = "transfer-encoding" not in headers and "content-length" not in headers
        self._received = asyncio.Event()
        self.disconnected = asyncio.Event()

    @property
    def unread(self) -> bool:
        """Whether there is a body that was not received to its end."""
        return not (self._empty or self._received.is_set())

    async def receive(self) -> Message:
        """Return the next message."""
        if self._received.is_set():
            await self.disconnected.wait()
            return {"type": "http.disconnect"}
        try:
            due = self._deadline + self.size / self._min_rate
            async with asyncio.timeout_at(due) as deadline:
                message = await self._receive()
        except TimeoutError:
            if not deadline.expired():
                raise
            seconds = self._timeout + self.size / self._min_rate
            problem = f"the body did not arrive within {seconds:.3g} seconds"
            raise HTTPError(408, problem, code="slow_body") from None
        self.size += len(message.get("body", b""))
        if self.size > self._limit:
            raise too_large("the body", self._limit)
        self.on_message()
        if not message.get("more_body", False):
            self._received.set()
        return message

    async def wait_for_disconnect(self) -> None:
        """Return once the client disconnects after the application has received the body."""
        await self._received.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()
