"""The HTTP application: routes, middleware and error responses."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from adapterhub.errors import AdapterHubError
from adapterhub.server.error_responses import error_response
from adapterhub.server.page_routes import page_routes
from adapterhub.server.request_limits import RequestLimits
from adapterhub.server.request_log import RequestLog
from adapterhub.server.responses import FINGERPRINT_HEADER
from adapterhub.server.routes import adapters, chat, completions, monitoring, tasks
from adapterhub.server.schemas.base import ErrorResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from adapterhub.server.context import Server

_DESCRIPTION = (
    "Text, labels and embeddings from one frozen backbone and many adapters. The `model` of a "
    "request is the backbone's name, an adapter, or a blend such as `a@prod*0.7+b*0.3`. "
    "The headers of every response name the adapters and the backbone that were used."
)


def create_app(server: Server) -> FastAPI:
    """Return the application of a server, to be run by an ASGI server."""
    app = create_api()
    app.state.server = server
    settings = server.settings
    # the middleware that is added last sees a request first
    app.add_middleware(
        RequestLimits,
        error_response=error_response,
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        request_timeout=settings.request_timeout,
    )
    app.add_middleware(
        RequestLog,
        metrics=server.metrics,
        headers={FINGERPRINT_HEADER: server.backbone.fingerprint},
        prompts=settings.log_prompts,
    )
    return app


def create_api() -> FastAPI:
    """Return the routes and their OpenAPI document, without a server behind them."""
    app = FastAPI(
        title="adapterhub",
        version=version("adapterhub"),
        description=_DESCRIPTION,
        routes=page_routes(),
        docs_url=None,
        redoc_url=None,
        # clients that send no Content-Type mean JSON
        strict_content_type=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
        responses={"default": {"model": ErrorResponse, "description": "Error"}},
        exception_handlers=dict.fromkeys(
            (AdapterHubError, HTTPException, RequestValidationError), _handle_error
        ),
    )
    for router in (
        monitoring.models,
        chat.router,
        completions.router,
        tasks.router,
        adapters.router,
        adapters.vllm,
        monitoring.router,
        monitoring.public,
    ):
        app.include_router(router)
    return app


async def _handle_error(_request: Request, error: Exception) -> Response:
    return error_response(error)
