"""Requests that one process receives and an application in another process answers.

Requests and the messages of responses are plain values, which can be sent between processes.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.http.errors import HTTPError
from adapterhub.server.responses import error_body, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import ASGIApp, Message, Scope

_LOG = logging.getLogger(__name__)
#: Most processes that a request is sent to, one after the other.
MAX_ATTEMPTS = 5
#: Seconds before the first repetition, doubled for each further one.
BACKOFF_SECONDS = 0.1
_SCOPE_KEYS = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A whole HTTP request.

    Args:
        scope: ASGI scope, without what belongs to the process that received it.
        body: Body.
    """

    scope: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> ForwardedRequest:
        """Return the request of an ASGI scope with another body."""
        kept = {key: scope[key] for key in _SCOPE_KEYS if key in scope}
        other = [pair for pair in kept["headers"] if pair[0].lower() != b"content-length"]
        kept["headers"] = [*other, (b"content-length", str(len(body)).encode())]
        return cls(kept, body)


async def respond_to(app: ASGIApp, request: ForwardedRequest) -> AsyncGenerator[Message, None]:
    """Yield the messages of an application's response; closing the generator cancels it."""
    messages: asyncio.Queue[Message] = asyncio.Queue()
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": request.body, "more_body": False}
        # a client that leaves closes the generator, which cancels this
        never: Message = await asyncio.get_running_loop().create_future()
        return never

    scope: Scope = {**request.scope, "state": {}}
    task = asyncio.ensure_future(app(scope, receive, messages.put))
    try:
        more = True
        while more:
            waiting = asyncio.ensure_future(messages.get())
            await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and messages.empty():
                waiting.cancel()
                # what the application raised, or a response without an end
                task.result()
                return
            message = await waiting
            more = message["type"] != "http.response.body" or message.get("more_body", False)
            yield message
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def with_retries(
    attempt: Callable[[], AsyncGenerator[Message, None]], lost: Callable[[Exception], bool]
) -> AsyncGenerator[Message, None]:
    """Yield the messages of a response, from another process if one is lost before it answers.

    A response begins with its first byte of content: until then nothing was sent to the client, so
    the request can be repeated. A stream that is lost later ends with an event that has the error.

    Args:
        attempt: Sends the request to a process and returns the messages of its response.
        lost: Whether an exception means that the process was lost, and not that it answers so.

    Raises:
        HTTPError: With status 503, when every attempt was lost.
    """
    for number in range(MAX_ATTEMPTS):
        start: Message | None = None
        begun = False
        try:
            async with aclosing(attempt()) as messages:
                async for message in messages:
                    if message["type"] == "http.response.start":
                        start = message
                        continue
                    if start is not None and not begun:
                        begun = True
                        yield start
                    yield message
            return
        except Exception as error:
            if not lost(error):
                raise
            _LOG.warning("a replica was lost: %s", error)
            if begun:
                failure = HTTPError(502, "the replica that computed this answer was lost")
                yield {"type": "http.response.body", "body": event(error_body(failure))}
                return
        await asyncio.sleep(BACKOFF_SECONDS * 2**number)
    raise HTTPError(
        503,
        f"{MAX_ATTEMPTS} replicas were lost while they computed the answer",
        hint="Send the request again later",
    )
