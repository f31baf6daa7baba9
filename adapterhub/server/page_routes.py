"""Routes of the web page at ``/`` and of the API documentation at ``/docs``.

All files come from installed packages, and the content security policies keep a browser from
loading anything from other hosts. The page itself may not run inline scripts or turn text into
markup either. Swagger UI needs inline styles and its own use of ``innerHTML``.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

    from starlette.requests import Request

#: The page and the API documentation; the files that they load are under ``/page/``.
INDEX, DOCS = "index.html", "docs.html"
#: Files of Swagger UI in the package fastapi-offline.
SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")

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


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page.

    Args:
        content: Bytes of the file.
        media_type: Media type with the character set of text.
        etag: Entity tag, which changes with the content.
    """

    content: bytes
    media_type: str
    etag: str


def page_routes() -> list[Route]:
    """Return the routes ``/``, ``/docs`` and ``/page/{name}``, which need no API key."""
    page = {**read_page(), **_read_swagger_ui()}

    async def index(request: Request) -> Response:
        return _respond(request, page[INDEX])

    async def docs(request: Request) -> Response:
        return _respond(request, page[DOCS], _DOCS_POLICY)

    async def asset(request: Request) -> Response:
        file = page.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404, "the page has no such file")
        return _respond(request, file)

    return [
        Route("/", index, include_in_schema=False),
        Route("/docs", docs, include_in_schema=False),
        Route("/page/{name}", asset, include_in_schema=False),
    ]


def read_page() -> Mapping[str, PageFile]:
    """Return every file of the page by its name."""
    return {
        entry.name: _read(entry, _MEDIA_TYPES[_suffix(entry)])
        for entry in files("adapterhub.server").joinpath("page").iterdir()
        if _suffix(entry) in _MEDIA_TYPES
    }


def _read_swagger_ui() -> Mapping[str, PageFile]:
    folder = files("fastapi_offline").joinpath("static")
    entries = [folder.joinpath(name) for name in SWAGGER_UI]
    return {entry.name: _read(entry, _MEDIA_TYPES[_suffix(entry)]) for entry in entries}


def _suffix(entry: Traversable) -> str:
    return entry.name[entry.name.rfind(".") :]


def _read(entry: Traversable, media_type: str) -> PageFile:
    content = entry.read_bytes()
    return PageFile(content, media_type, f'"{sha256(content).hexdigest()[:32]}"')


def _respond(request: Request, file: PageFile, policy: str = _POLICY) -> Response:
    headers = {**_HEADERS, "Content-Security-Policy": policy, "ETag": file.etag}
    known = request.headers.get("if-none-match", "")
    if file.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    # HEAD requests use these routes as well, and the server leaves out the body
    return Response(file.content, headers=headers, media_type=file.media_type)
