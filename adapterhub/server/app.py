"""The server: every address it answers at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from adapterhub.errors import AdapterHubError
from adapterhub.server.answers import error_answer
from adapterhub.server.describing import FINGERPRINT_HEADER
from adapterhub.server.operation_list import operations
from adapterhub.server.operations import Endpoint, Operation, request_id

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from adapterhub.server.context import Server

REQUEST_ID_HEADER = "x-request-id"


def create_app(server: Server) -> Starlette:
    """Return the application over a server, to be run by an ASGI server."""
    app = Starlette(
        routes=[_route(each) for each in operations()],
        exception_handlers={
            AdapterHubError: _answer_error,
            HTTPException: _answer_error,
            Exception: _answer_error,
        },
    )
    app.state.server = server
    app.add_middleware(Labelled, fingerprint=server.backbone.fingerprint)
    return app


class Labelled:
    """Tells with every answer the id of its request and the backbone that is served.

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
        labels = [
            (REQUEST_ID_HEADER.encode(), request_id(scope).encode()),
            (FINGERPRINT_HEADER.encode(), self._fingerprint),
        ]

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *labels]}
            await send(message)

        await self._app(scope, receive, labelled)


def _route(operation: Operation) -> Route:
    return Route(operation.path, Endpoint(operation), methods=[operation.method])


async def _answer_error(_request: Request, error: Exception) -> Response:
    return error_answer(error)
