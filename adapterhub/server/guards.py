"""Limits of one request: how long its body is, how long it takes to come, and to answer."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from adapterhub.http.errors import HTTPError, too_large

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)
_CLOSE = {"Connection": "close"}
#: Of a length that is read as a number at all.
_MOST_DIGITS = 18


class Guards:
    """Middleware that holds every request to limits.

    A body that is too long or too slow raises a ``HTTPError`` where it is read, with the status 413
    or 408; one whose announced length is too long is answered before the application sees it.
    A request that takes too long is cancelled, and answered with 504 where nothing was sent yet.

    Args:
        app: that answers.
        answer: makes the answer of a refusal.
        max_body_bytes: in bytes.
        body_timeout: for all of the body to come.
        request_timeout: for all of the request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        answer: Callable[[Exception], Response],
        max_body_bytes: int,
        body_timeout: float,
        request_timeout: float,
    ) -> None:
        self._app = app
        self._answer = answer
        self._max_body = max_body_bytes
        self._body_seconds = body_timeout
        self._request_seconds = request_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._max_body:
            await self._refuse(too_large("the body", self._max_body), scope, receive, send)
            return
        body = _Body(receive, self._max_body, self._body_seconds)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self._request_seconds) as limit:
                await self._app(scope, body.receive, watched)
        except (TimeoutError, HTTPError) as error:
            late = isinstance(error, TimeoutError)
            if (late and not limit.expired()) or (started and not late):
                raise
            refusal = self._too_late() if late else error
            if started:
                # what was sent is not whole, which the client sees by the connection's end
                _LOG.warning("%s", refusal)
                return
            await self._refuse(refusal, scope, receive, send)

    def _too_late(self) -> HTTPError:
        return HTTPError(
            504,
            f"took longer than {self._request_seconds:g} seconds",
            code="timeout",
            hint="Ask for fewer tokens, or stream the answer",
        )

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._answer(error)
        # what is left of the body is not read
        response.headers.update(_CLOSE)
        await response(scope, receive, send)


def _announced(scope: Scope) -> float:
    """Return the length that a body is said to have, 0 where none is said."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return 0
    return int(length) if len(length) <= _MOST_DIGITS else math.inf


class _Body:
    """The body of a request as it comes.

    Args:
        receive: of ASGI.
        most: bytes.
        seconds: for all of it to come, from now on.
    """

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._read = 0
        self._whole = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            HTTPError: when the body is too long, or late.
        """
        if self._whole:
            # the application waits for the client to go
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                message = await self._receive()
        except TimeoutError:
            if not limit.expired():
                raise
            problem = f"the body did not come in {self._seconds:g} seconds"
            raise HTTPError(408, problem, code="slow_body", headers=_CLOSE) from None
        self._read += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._read > self._most:
            refusal = too_large("the body", self._most)
            refusal.headers.update(_CLOSE)
            raise refusal
        return message
