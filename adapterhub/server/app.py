"""The server: every address it answers at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from adapterhub.errors import AdapterHubError
from adapterhub.server.answers import error_answer
from adapterhub.server.describing import FINGERPRINT_HEADER
from adapterhub.server.guards import Guards
from adapterhub.server.operation_list import operations
from adapterhub.server.operations import Endpoint, Operation
from adapterhub.server.page_files import page_routes
from adapterhub.server.request_log import RequestLog

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from adapterhub.server.context import Server


def create_app(server: Server) -> Starlette:
    """Return the application over a server, to be run by an ASGI server."""
    app = Starlette(
        routes=[*(_route(each) for each in operations()), *page_routes()],
        exception_handlers={
            AdapterHubError: _answer_error,
            HTTPException: _answer_error,
            Exception: _answer_error,
        },
    )
    app.state.server = server
    settings = server.settings
    # the last one that is added is the first that sees a request
    app.add_middleware(
        Guards,
        answer=error_answer,
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        request_timeout=settings.request_timeout,
    )
    app.add_middleware(Labelled, fingerprint=server.backbone.fingerprint)
    app.add_middleware(RequestLog, prompts=settings.log_prompts)
    return app


class Labelled:
    """Tells with every answer the backbone that is served.

    Args:
        app: that answers.
        fingerprint: of the backbone.
    """

    def __init__(self, app: ASGIApp, *, fingerprint: str) -> None:
        self._app = app
        self._fingerprint = fingerprint.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        label = (FINGERPRINT_HEADER.encode(), self._fingerprint)

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], label]}
            await send(message)

        await self._app(scope, receive, labelled)


def _route(operation: Operation) -> Route:
    return Route(operation.path, Endpoint(operation), methods=[operation.method])


async def _answer_error(_request: Request, error: Exception) -> Response:
    return error_answer(error)
