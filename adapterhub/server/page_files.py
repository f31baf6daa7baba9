"""The page for people: its files, read once, and the routes that serve them.

The page is plain HTML, CSS and JavaScript modules. It asks nothing of other hosts, and its
policy keeps a browser from doing so: no foreign script, style, picture or connection, no
inline script, and no text that becomes markup.
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

    from starlette.requests import Request

#: The page itself; what it loads lies under ``/page/``.
INDEX = "index.html"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # a newer version of the package is seen at once; an unchanged file is not sent again
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Args:
        content: as it is sent.
        media_type: with the character set, where it is text.
        etag: changes with the content.
    """

    content: bytes
    media_type: str
    etag: str


def page_routes() -> list[Route]:
    """Return the routes of the page: ``/`` and ``/page/{name}``; neither asks for a key."""
    page = read_page()

    async def index(request: Request) -> Response:
        return _answer(request, page[INDEX])

    async def asset(request: Request) -> Response:
        file = page.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404, "the page has no such file")
        return _answer(request, file)

    return [
        Route("/", index, include_in_schema=False),
        Route("/page/{name}", asset, include_in_schema=False),
    ]


def read_page() -> Mapping[str, PageFile]:
    """Return every file of the page by its name."""
    folder = files("adapterhub.server").joinpath("page")
    found = {}
    for entry in folder.iterdir():
        media_type = _MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :])
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            found[entry.name] = PageFile(content, media_type, etag)
    return found


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    asked = request.headers.get("if-none-match", "")
    if file.etag in (tag.strip().removeprefix("W/") for tag in asked.split(",")):
        return Response(status_code=304, headers=headers)
    # Starlette's routes answer HEAD too, and the server leaves the body out
    return Response(file.content, headers=headers, media_type=file.media_type)
