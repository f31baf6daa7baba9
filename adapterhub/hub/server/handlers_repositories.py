"""Endpoints for accounts and for repositories, branches and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.errors import ArtifactError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.card import parse_card
from adapterhub.hub.server.queries import Search
from adapterhub.hub.server.records import MAIN
from adapterhub.hub.server.requests import (
    hub_of,
    is_true,
    next_link,
    page_size,
    page_url,
    part_of,
    readable,
    require_login,
    require_reader,
    require_write,
    revision_of,
    text_of,
    writable,
)
from adapterhub.hub.server.responses import repository_view

if TYPE_CHECKING:
    from starlette.requests import Request

    from adapterhub.access import Caller


def who_am_i(request: Request) -> Response:
    """Return the user of the token and its scopes."""
    caller = require_login(request)
    owners = sorted({scope.owner for scope in caller.scopes} - {caller.name, "*"})
    role = "write" if any(scope.right == "write" for scope in caller.scopes) else "read"
    return JSONResponse(
        {
            "type": "user",
            "id": caller.name,
            "name": caller.name,
            "fullname": caller.name,
            "email": None,
            "isPro": False,
            "orgs": [{"type": "org", "id": owner, "name": owner} for owner in owners],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": caller.name,
                    "role": role,
                    "scopes": sorted(map(str, caller.scopes)),
                },
            },
        }
    )


def list_models(request: Request) -> Response:
    """List the matching repositories that the caller may see, one page at a time."""
    caller = require_reader(request)
    hub, query = hub_of(request), request.query_params
    owners = caller.readable_owners()
    tags = tuple(tag for given in query.getlist("filter") for tag in given.split(",") if tag)
    if len(tags) > hub.settings.max_terms:
        problem = f"has {len(tags)} terms, the limit is {hub.settings.max_terms}"
        raise HTTPError(400, problem, place="filter")
    search = Search(
        owners=owners,
        readable=None if hub.settings.anonymous_read else owners,
        text=query.get("search"),
        owner=query.get("author"),
        tags=tags,
        pipeline_tag=query.get("pipeline_tag"),
        sort="created" if query.get("sort") == "createdAt" else "modified",
        newest_first=query.get("direction") != "1",
        limit=page_size(request, hub.settings.max_page),
        after=query.get("cursor"),
    )
    found, following = hub.store.search(search)
    views = [repository_view(repository, sha) for repository, sha in found]
    if is_true(request, "full") or is_true(request, "cardData"):
        for view, (repository, _) in zip(views, found, strict=True):
            view["cardData"] = dict(repository.card)
    return JSONResponse(views, headers=next_link(request, following) if following else {})


def create_repository(request: Request, body: dict[str, Any]) -> Response:
    """Create a repository of type model."""
    caller = _model_request(request, body)
    name = _full_name(body, caller)
    require_write(caller, name.partition("/")[0])
    private = bool(_private(body))
    url = page_url(request, name)
    try:
        hub_of(request).store.create(name, private=private, author=str(caller.name))
    except HTTPError as error:
        if error.status == 409:
            # clients that accept an existing repository read its address from the response
            return JSONResponse({"error": str(error), "url": url}, 409)
        raise
    return JSONResponse({"url": url, "name": name, "id": name})


def delete_repository(request: Request, body: dict[str, Any]) -> Response:
    """Delete a repository."""
    caller = _model_request(request, body)
    found, _ = writable(request, _full_name(body, caller))
    hub_of(request).store.delete(found.name)
    return PlainTextResponse("OK")


def move_repository(request: Request, body: dict[str, Any]) -> Response:
    """Rename a repository; the caller must be allowed to write both names."""
    caller = _model_request(request, body)
    target = text_of(body, "toRepo")
    found, _ = writable(request, text_of(body, "fromRepo"))
    require_write(caller, target.partition("/")[0])
    hub_of(request).store.move(found.name, target)
    return JSONResponse({"url": page_url(request, target)})


def change_settings(request: Request, body: dict[str, Any]) -> Response:
    """Make a repository private or public."""
    found, _ = writable(request)
    if body.get("gated"):
        raise HTTPError(400, "gated repositories are not supported", hint="Make it private")
    private = _private(body)
    if private is not None:
        hub_of(request).store.set_private(found.name, private)
    return JSONResponse({"private": found.private if private is None else private})


def check_access(request: Request) -> Response:
    """Check whether the caller may read, or with ``/write`` write, a repository."""
    if request.url.path.endswith("/write"):
        writable(request)
    else:
        readable(request)
    return PlainTextResponse("OK")


def validate_card(_request: Request, body: dict[str, Any]) -> Response:
    """Check whether the metadata of a card is valid."""
    try:
        parse_card(text_of(body, "content", ""))
    except ArtifactError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


def list_refs(request: Request) -> Response:
    """List branches and tags."""
    found = readable(request)
    branches, tags = (
        [
            {"name": ref.name, "ref": f"{prefix}{ref.name}", "targetCommit": ref.sha}
            for ref in hub_of(request).store.refs(found)
            if ref.kind == kind
        ]
        for kind, prefix in (("branch", "refs/heads/"), ("tag", "refs/tags/"))
    )
    # main is listed first
    branches.sort(key=lambda branch: branch["name"] != MAIN)
    return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def create_branch(request: Request, body: dict[str, Any]) -> Response:
    """Create a branch, from main by default."""
    found, _ = writable(request)
    start = text_of(body, "startingPoint", MAIN)
    hub_of(request).store.add_ref(found, "branch", part_of(request, "branch"), start)
    return PlainTextResponse("OK", 201)


def delete_branch(request: Request) -> Response:
    """Delete a branch; its commits are kept with the repository."""
    found, _ = writable(request)
    hub_of(request).store.delete_ref(found, "branch", part_of(request, "branch"))
    return PlainTextResponse("OK")


def create_tag(request: Request, body: dict[str, Any]) -> Response:
    """Tag a revision."""
    found, _ = writable(request)
    hub_of(request).store.add_ref(found, "tag", text_of(body, "tag"), revision_of(request))
    return PlainTextResponse("OK", 201)


def delete_tag(request: Request) -> Response:
    """Delete a tag."""
    found, _ = writable(request)
    hub_of(request).store.delete_ref(found, "tag", revision_of(request))
    return PlainTextResponse("OK")


def _model_request(request: Request, body: dict[str, Any]) -> Caller:
    if body.get("type") not in (None, "model"):
        raise HTTPError(400, f"repositories have the type 'model', not {body['type']!r}")
    return require_login(request)


def _full_name(body: dict[str, Any], caller: Caller) -> str:
    owner = text_of(body, "organization", "") or caller.name
    return f"{owner}/{text_of(body, 'name')}"


def _private(body: dict[str, Any]) -> bool | None:
    visibility = body.get("visibility")
    if visibility in ("public", "private"):
        return bool(visibility == "private")
    if visibility is not None:
        raise HTTPError(
            400, f"the visibility {visibility!r} is not supported", hint="Use public or private"
        )
    private = body.get("private")
    return private if isinstance(private, bool) else None
