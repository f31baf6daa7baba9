"""Listing repositories with filters, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from adapterhub.hub.server.context import base_url, hub_of, require_reader
from adapterhub.hub.server.params import is_true, page_size, with_query
from adapterhub.hub.server.search import Search
from adapterhub.hub.server.views import repository_view

if TYPE_CHECKING:
    from starlette.requests import Request

    from adapterhub.hub.server.records import Repository


async def list_models(request: Request) -> Response:
    """List the repositories that fit and that the caller may see."""
    caller = await require_reader(request)
    hub, query = hub_of(request), request.query_params
    search = Search(
        owners=caller.readable_owners(),
        readable=None if hub.settings.anonymous_read else caller.readable_owners(),
        text=query.get("search"),
        owner=query.get("author"),
        tags=tuple(tag for given in query.getlist("filter") for tag in given.split(",") if tag),
        pipeline_tag=query.get("pipeline_tag"),
        sort="created" if query.get("sort") == "createdAt" else "modified",
        newest_first=query.get("direction") != "1",
        limit=page_size(request, hub.settings.max_page),
        after=query.get("cursor"),
    )
    page = await run_in_threadpool(hub.store.search, search)
    full = is_true(request, "full") or is_true(request, "cardData")
    headers = {}
    if page.next is not None:
        following = with_query(request, cursor=page.next)
        headers["Link"] = f'<{base_url(request)}{following}>; rel="next"'
    views = [_view(repository, sha, full=full) for repository, sha in page.repositories]
    return JSONResponse(views, headers=headers)


def _view(repository: Repository, sha: str | None, *, full: bool) -> dict[str, object]:
    view = repository_view(repository, sha)
    if full:
        view["cardData"] = dict(repository.card)
    return view
