"""The ASGI application of the endpoint."""

from __future__ import annotations

import unicodedata
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from adapterhub.errors import AdapterHubError
from adapterhub.http.errors import HTTPError
from adapterhub.http.request_limits import RequestLimits
from adapterhub.hub.server import handlers_files as files
from adapterhub.hub.server import handlers_repositories as repositories
from adapterhub.hub.server import handlers_uploads as uploads
from adapterhub.hub.server.records import no_repository
from adapterhub.hub.server.requests import Hub, with_form, with_json
from adapterhub.hub.server.responses import error_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from adapterhub.access import KeyStore
    from adapterhub.hub.server.settings import HubSettings
    from adapterhub.hub.server.store import RepoStore

_REPO = "/api/models/{owner}/{name}"
_LFS = "/{owner}/{name}.git/info/lfs"


def create_app(store: RepoStore, keys: KeyStore, settings: HubSettings) -> Starlette:
    """Return the endpoint over a store."""
    app = Starlette(
        routes=_routes(),
        exception_handlers={
            AdapterHubError: error_response,
            OSError: error_response,
            HTTPException: _unknown_address,
        },
    )
    app.state.hub = Hub(store, keys, settings, store.secret("uploads"))
    app.add_middleware(KeepEncodedSlashes)
    # the middleware that is added last sees a request first
    app.add_middleware(
        RequestLimits,
        error_response=partial(error_response, None),
        max_body_bytes=max(settings.max_commit, settings.max_file),
        body_timeout=settings.body_timeout,
        request_timeout=settings.request_timeout,
        min_rate=settings.min_rate,
    )
    return app


class KeepEncodedSlashes:
    """Middleware that keeps ``%2F`` encoded, so that a branch ``a/b`` is one path segment.

    A control character in the address is an error with status 400.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and _has_controls(scope):
            error = HTTPError(400, "contains a control character", place="address")
            await error_response(None, error)(scope, receive, send)
            return
        if scope["type"] == "http" and b"%2" in scope.get("raw_path", b""):
            raw = scope["raw_path"].replace(b"%2f", b"%2F").replace(b"%2F", b"%252F")
            scope = {**scope, "path": unquote(raw.decode("latin-1"))}
        await self._app(scope, receive, send)


def _has_controls(scope: Scope) -> bool:
    texts = scope["path"], unquote(scope["query_string"].decode("latin-1"))
    return any(unicodedata.category(char) == "Cc" for text in texts for char in text)


async def health(_request: Request) -> Response:
    """Confirm that the endpoint runs."""
    return PlainTextResponse("OK")


def nothing_there(request: Request) -> Response:
    """Reject types and names of repositories that are not supported."""
    raise no_repository(request.url.path.removeprefix("/api/"))


def _routes() -> list[Route]:
    return [
        Route("/health", health),
        Route("/api/whoami-v2", repositories.who_am_i),
        Route(
            "/api/validate-yaml",
            with_json(repositories.validate_card, login=False),
            methods=["POST"],
        ),
        Route("/api/repos/create", with_json(repositories.create_repository), methods=["POST"]),
        Route("/api/repos/delete", with_json(repositories.delete_repository), methods=["DELETE"]),
        Route("/api/repos/move", with_json(repositories.move_repository), methods=["POST"]),
        Route("/api/models", repositories.list_models),
        Route(_REPO, files.info),
        Route(f"{_REPO}/revision/{{revision}}", files.info),
        Route(f"{_REPO}/tree/{{revision}}", files.list_tree),
        Route(f"{_REPO}/tree/{{revision}}/{{path:path}}", files.list_tree),
        Route(f"{_REPO}/paths-info/{{revision}}", with_form(files.paths_info), methods=["POST"]),
        Route(f"{_REPO}/refs", repositories.list_refs),
        Route(f"{_REPO}/commits/{{revision}}", files.list_commits),
        Route(f"{_REPO}/settings", with_json(repositories.change_settings), methods=["PUT"]),
        Route(f"{_REPO}/auth-check", repositories.check_access),
        Route(f"{_REPO}/auth-check/write", repositories.check_access),
        Route(f"{_REPO}/preupload/{{revision}}", with_json(uploads.preupload), methods=["POST"]),
        Route(f"{_REPO}/xet-write-token/{{revision}}", uploads.no_xet),
        Route(f"{_REPO}/commit/{{revision}}", uploads.commit, methods=["POST"]),
        Route(
            f"{_REPO}/branch/{{branch}}", with_json(repositories.create_branch), methods=["POST"]
        ),
        Route(f"{_REPO}/branch/{{branch}}", repositories.delete_branch, methods=["DELETE"]),
        Route(f"{_REPO}/tag/{{revision}}", with_json(repositories.create_tag), methods=["POST"]),
        Route(f"{_REPO}/tag/{{revision}}", repositories.delete_tag, methods=["DELETE"]),
        Route(f"{_LFS}/objects/batch", with_json(uploads.lfs_batch), methods=["POST"]),
        Route(f"{_LFS}/objects/{{oid}}", uploads.lfs_upload, methods=["PUT"]),
        Route(f"{_LFS}/verify", with_json(uploads.lfs_verify), methods=["POST"]),
        Route("/{owner}/{name}/resolve/{revision}/{path:path}", files.resolve),
        Route("/api/{kind}/{rest:path}", nothing_there),
        Route("/{name}/resolve/{revision}/{path:path}", nothing_there),
    ]


async def _unknown_address(request: Request, error: Exception) -> Response:
    """Return the response for an unknown address, in the form of every other error."""
    assert isinstance(error, HTTPException)
    found = HTTPError(error.status_code, error.detail, place=request.url.path[:200])
    return error_response(request, found)
