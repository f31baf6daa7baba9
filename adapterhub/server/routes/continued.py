"""What the routes that continue texts share: the whole answer at once, or piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse

from adapterhub.server.answers import error_body
from adapterhub.server.describing import headers_of
from adapterhub.server.generation import pieces, started
from adapterhub.server.streaming import EventStream, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.responses import Response

    from adapterhub.server.context import Call
    from adapterhub.server.generation import Job, Piece
    from adapterhub.server.schemas.chat import ChatRequest
    from adapterhub.server.schemas.completion import CompletionRequest

Body = TypeVar("Body", "ChatRequest", "CompletionRequest")


async def respond(
    call: Call,
    body: Body,
    job: Job,
    whole: Callable[[Call, Body, Job], Awaitable[dict[str, Any]]],
    events: Callable[[Call, Body, Job, AsyncGenerator[Piece, None]], AsyncGenerator[bytes, None]],
) -> Response:
    """Answer a request.

    Args:
        call: of the request.
        body: of the request.
        job: what is generated.
        whole: makes the answer at once.
        events: makes the events of a stream out of its pieces.
    """
    headers = headers_of([job.model])
    if not body.stream:
        return JSONResponse(await whole(call, body, job), headers=headers)
    found = await started(pieces(call, job))
    return EventStream(
        events(call, body, job, found), lambda error: event(error_body(error)), headers
    )
