"""What the address of a request says."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import MAIN

if TYPE_CHECKING:
    from starlette.requests import Request

#: How a slash inside one part of an address is written.
SLASH = "%2F"


def revision_of(request: Request) -> str:
    """Return the branch, tag or sha that is asked for; main where none is."""
    return part_of(request, "revision", MAIN)


def path_of(request: Request) -> str:
    """Return the path in the repository that is asked for; empty for its root."""
    return part_of(request, "path", "").strip("/")


def part_of(request: Request, key: str, default: str = "") -> str:
    """Return a part of the address, in which slashes may be written as ``%2F``."""
    return str(request.path_params.get(key, default)).replace(SLASH, "/")


def is_true(request: Request, key: str) -> bool:
    """Return whether a flag is set."""
    return request.query_params.get(key, "").lower() in ("1", "true")


def page_size(request: Request, largest: int) -> int:
    """Return how many entries a page has.

    Raises:
        HTTPError: when ``limit`` is no whole number of 1 or more.
    """
    text = request.query_params.get("limit", "")
    if not text:
        return largest
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise HTTPError(400, "must be a whole number of 1 or more", place="limit")
    return min(int(text), largest)


def with_query(request: Request, **changes: str) -> str:
    """Return the path and query of the request, with some of the query replaced."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in changes]
    path = request.scope["raw_path"].decode("latin-1")
    return f"{path}?{urlencode([*kept, *changes.items()])}"
