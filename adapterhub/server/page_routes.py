"""Routes of the web page at ``/`` and of the API documentation at ``/docs``.

All files come from installed packages, and the content security policies keep a browser from
loading anything from other hosts. The page itself may not run inline scripts or turn text into
markup either. Swagger UI needs inline styles and its own use of ``innerHTML``.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

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
    _BASE_POLICY + "style-src 'self'; img-src 'self'; "
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
