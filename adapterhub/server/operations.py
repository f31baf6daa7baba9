"""One address of the API: how a request becomes a call, and what comes of it an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from starlette.requests import Request

from adapterhub.access import Caller
from adapterhub.http.bodies import stream_body
from adapterhub.http.errors import HTTPError
from adapterhub.server.answers import error_answer
from adapterhub.server.context import Call
from adapterhub.server.request_log import note
from adapterhub.server.streaming import ClientGone, while_connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from adapterhub.server.context import Server

    #: Answers a call; the body is of the operation's class, or ``None`` where it has none.
    Handler: TypeAlias = Callable[[Call, Any], Awaitable[Response]]

_LOG = logging.getLogger(__name__)
#: Bodies from this size on are parsed on a thread.
LARGE = 64 * 1024
#: What proxies log for a client that went away; nobody reads it.
GONE = 499
NOBODY = Caller(key_id=None, role="use", adapters=())


@dataclass(frozen=True, slots=True)
class Operation:
    """One address and method.

    Args:
        method: of HTTP.
        path: of the address.
        handler: that answers.
        summary: one line for the OpenAPI document.
        tag: group in the OpenAPI document.
        body: class of the request, if it has a body.
        answer: class of the answer; text where ``None``.
        query: names of the query's parameters, and what they are.
        media: type of the answer.
        streams: whether it may answer in server-sent events.
        open: whether it is answered without a key, also while the server ends.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    query: tuple[tuple[str, str], ...] = field(default=())
    media: str = "application/json"
    streams: bool = False
    open: bool = False


class Endpoint:
    """The ASGI application of one operation.

    Args:
        operation: that is answered.
    """

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; no error leaves this but that of a client that went away."""
        server: Server = scope["app"].state.server
        began = time.perf_counter()
        status = GONE

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._serve(server, Request(scope, receive), watched)
        except ClientGone:
            _LOG.debug("the client went away")
        except Exception as error:
            if status != GONE:
                raise
            await error_answer(error)(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            server.metrics.answered(self._operation.path, status, seconds)

    async def _serve(self, server: Server, request: Request, send: Send) -> None:
        operation = self._operation
        if not operation.open and server.draining:
            raise HTTPError(503, "the server is ending", code="draining")
        call = Call(
            server=server,
            caller=NOBODY if operation.open else server.access.caller(request.headers),
            request_id=request_id(request.scope),
            path=request.path_params,
            query=request.query_params,
        )
        note(request.scope, key=call.caller.key_id)
        # who asks for something is held to the limits of the key; who looks is not
        limits = server.access.counted(call.caller) if operation.body else nullcontext()
        with limits:
            await self._answer(call, request, send)

    async def _answer(self, call: Call, request: Request, send: Send) -> None:
        operation, server = self._operation, call.server
        body = None
        if operation.body is not None:
            content = b"".join(
                [chunk async for chunk in stream_body(request, server.settings.max_body_bytes)]
            )
            parse = operation.body.model_validate_json
            large = len(content) >= LARGE
            body = await asyncio.to_thread(parse, content) if large else parse(content)

        async def answer() -> None:
            response = await operation.handler(call, body)
            await response(request.scope, request.receive, send)

        await while_connected(request.receive, answer())


def request_id(scope: Scope) -> str:
    """Return the id of a request, given to it when it is first asked for."""
    state = scope.setdefault("state", {})
    found: str = state.setdefault("request_id", uuid4().hex)
    return found
