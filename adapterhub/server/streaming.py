"""Server-sent events, and work that ends when its client goes away."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping

    from starlette.types import Receive, Scope, Send

_T = TypeVar("_T")
DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


def event(document: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    content = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + content.encode("utf-8", "replace") + b"\n\n"


class EventStream(Response):
    """An answer that goes on while it is sent.

    Args:
        events: closed when the answer ends, however it does.
        on_error: the event that tells of an error, after which the answer ends.
        headers: of the answer.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        on_error: Callable[[Exception], bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._on_error = on_error
        # proxies would gather events otherwise
        extra = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.init_headers({**extra, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._events) as events:
            try:
                async for content in events:
                    await send(_piece(content, more=True))
            except Exception as error:  # noqa: BLE001, told to the client and to the log
                await send(_piece(self._on_error(error), more=True))
        await send(_piece(DONE, more=False))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Do something, and stop doing it once the client goes away.

    Args:
        receive: of the request, whose body was read to its end.
        work: cancelled where the client goes first.

    Raises:
        ClientGone: when it did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await each


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _piece(content: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
