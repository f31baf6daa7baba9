"""The HTTP application: routes, the web page, middleware and error responses."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from adapterhub.errors import AdapterHubError
from adapterhub.http.request_limits import RequestLimits
from adapterhub.server.request_log import RequestLog
from adapterhub.server.responses import FINGERPRINT_HEADER, error_response
from adapterhub.server.routes import (
    adapters,
    audio,
    backbones,
    chat,
    completions,
    monitoring,
    tasks,
)
from adapterhub.server.schemas.base import ErrorResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from adapterhub.server.context import Server

#: Start of the routes that receive files of recordings.
AUDIO_PATH = "/v1/audio/"
_DESCRIPTION = (
    "Text, labels and embeddings from frozen backbones and many adapters. The `model` of a "
    "request is a backbone's name, an adapter, or a blend such as `a@prod*0.7+b*0.3`. "
    "The headers of every response name the adapters and the backbone that were used."
)
#: Packages and their folders with the files of the page and of Swagger UI.
PACKAGES: list[str | tuple[str, str]] = [
    ("adapterhub.server", "page"),
    ("fastapi_offline", "static"),
]

#: Media types, which would otherwise depend on the operating system.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_BASE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
_POLICY = (
    _BASE_POLICY + "style-src 'self'; img-src 'self'; media-src blob:; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_DOCS_POLICY = _BASE_POLICY + "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # a new version of the package is used at once; unchanged files are not sent again
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """Files of the page with its security headers."""

    def file_response(self, full_path: Any, *args: Any, **options: Any) -> Response:
        """Return the response with a file."""
        response = super().file_response(full_path, *args, **options)
        path = PurePath(full_path)
        response.headers["Content-Security-Policy"] = (
            _DOCS_POLICY if path.name == "docs.html" else _POLICY
        )
        response.headers.update(_HEADERS)
        if path.suffix in _MEDIA_TYPES:
            response.headers["Content-Type"] = _MEDIA_TYPES[path.suffix]
        return response


def page_routes() -> list[BaseRoute]:
    """Return the routes ``/``, ``/docs`` and ``/page/{name}``, which need no API key."""
    page = PageFiles(packages=PACKAGES)

    async def index(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    async def docs(request: Request) -> Response:
        return await page.get_response("docs.html", request.scope)

    return [
        Route("/", index, include_in_schema=False),
        Route("/docs", docs, include_in_schema=False),
        Mount("/page", page),
    ]


def create_app(server: Server) -> FastAPI:
    """Return the application of a server, to be run by an ASGI server."""
    app = create_api()
    app.state.server = server
    settings, served = server.settings, server.backbones
    # the only backbone is that of every response
    only = {FINGERPRINT_HEADER: served.first.fingerprint} if len(served) == 1 else {}
    # the middleware that is added last sees a request first
    app.add_middleware(
        RequestLimits,
        error_response=error_response,
        max_body_bytes=settings.max_body_bytes,
        body_limits={AUDIO_PATH: settings.max_audio_bytes},
        body_timeout=settings.body_timeout,
        request_timeout=settings.request_timeout,
        timeout_hint="Ask for fewer tokens, or stream the response",
    )
    app.add_middleware(
        RequestLog,
        metrics=server.metrics,
        headers=only,
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
        audio.router,
        adapters.router,
        adapters.vllm,
        backbones.router,
        monitoring.router,
        monitoring.public,
    ):
        app.include_router(router)
    return app


async def _handle_error(_request: Request, error: Exception) -> Response:
    return error_response(error)
