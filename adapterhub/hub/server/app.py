"""The endpoint: every address it answers at."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from adapterhub.errors import AdapterHubError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server import (
    handlers_account,
    handlers_browse,
    handlers_change,
    handlers_download,
    handlers_search,
    handlers_upload,
)
from adapterhub.hub.server.answers import answer_error
from adapterhub.hub.server.context import Hub
from adapterhub.hub.server.errors import no_repository

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from adapterhub.access import KeyStore
    from adapterhub.hub.server.settings import HubSettings
    from adapterhub.hub.server.store import RepoStore

_REPO = "/api/models/{owner}/{name}"
_LFS = "/{owner}/{name}.git/info/lfs"


def create_app(store: RepoStore, keys: KeyStore, settings: HubSettings) -> Starlette:
    """Return the endpoint over a store, to be run by an ASGI server."""
    app = Starlette(
        routes=_routes(),
        exception_handlers={
            AdapterHubError: answer_error,
            OSError: answer_error,
            HTTPException: _answer_http,
        },
    )
    app.state.hub = Hub(store, keys, settings, store.secret("uploads"))
    app.add_middleware(KeepEncodedSlashes)
    return app


class KeepEncodedSlashes:
    """Keeps ``%2F`` in the path as it is, so that a branch ``a/b`` is one part of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and b"%2" in scope.get("raw_path", b""):
            raw = scope["raw_path"].replace(b"%2f", b"%2F").replace(b"%2F", b"%252F")
            scope = {**scope, "path": unquote(raw.decode("latin-1"))}
        await self._app(scope, receive, send)


async def health(_request: Request) -> Response:
    """Tell that the endpoint is up."""
    return PlainTextResponse("OK")


async def nothing_there(request: Request) -> Response:
    """Answer for kinds of repositories and names that there can't be here."""
    raise no_repository(request.url.path.removeprefix("/api/"))


def _routes() -> list[Route]:
    account, browse, change = handlers_account, handlers_browse, handlers_change
    upload, resolve = handlers_upload, handlers_download.resolve
    return [
        Route("/health", health),
        Route("/api/whoami-v2", account.who_am_i),
        Route("/api/validate-yaml", account.validate_card, methods=["POST"]),
        Route("/api/repos/create", account.create_repository, methods=["POST"]),
        Route("/api/repos/delete", account.delete_repository, methods=["DELETE"]),
        Route("/api/repos/move", account.move_repository, methods=["POST"]),
        Route("/api/models", handlers_search.list_models),
        Route(_REPO, browse.info),
        Route(f"{_REPO}/revision/{{revision}}", browse.info),
        Route(f"{_REPO}/tree/{{revision}}", browse.list_tree),
        Route(f"{_REPO}/tree/{{revision}}/{{path:path}}", browse.list_tree),
        Route(f"{_REPO}/paths-info/{{revision}}", browse.paths_info, methods=["POST"]),
        Route(f"{_REPO}/refs", browse.list_refs),
        Route(f"{_REPO}/commits/{{revision}}", browse.list_commits),
        Route(f"{_REPO}/settings", account.change_settings, methods=["PUT"]),
        Route(f"{_REPO}/auth-check", account.check_access),
        Route(f"{_REPO}/auth-check/write", account.check_access),
        Route(f"{_REPO}/preupload/{{revision}}", upload.preupload, methods=["POST"]),
        Route(f"{_REPO}/xet-write-token/{{revision}}", upload.no_xet),
        Route(f"{_REPO}/commit/{{revision}}", change.commit, methods=["POST"]),
        Route(f"{_REPO}/branch/{{branch}}", change.create_branch, methods=["POST"]),
        Route(f"{_REPO}/branch/{{branch}}", change.delete_branch, methods=["DELETE"]),
        Route(f"{_REPO}/tag/{{revision}}", change.create_tag, methods=["POST"]),
        Route(f"{_REPO}/tag/{{revision}}", change.delete_tag, methods=["DELETE"]),
        Route(f"{_LFS}/objects/batch", upload.lfs_batch, methods=["POST"]),
        Route(f"{_LFS}/objects/{{oid}}", upload.lfs_upload, methods=["PUT"]),
        Route(f"{_LFS}/verify", upload.lfs_verify, methods=["POST"]),
        Route("/{owner}/{name}/resolve/{revision}/{path:path}", resolve),
        Route("/api/{kind}/{rest:path}", nothing_there),
        Route("/{name}/resolve/{revision}/{path:path}", nothing_there),
    ]


async def _answer_http(request: Request, error: Exception) -> Response:
    """Answer for addresses that are not known, in the form of every other error."""
    assert isinstance(error, HTTPException)
    refusal = HTTPError(error.status_code, error.detail, place=request.url.path[:200])
    return answer_error(request, refusal)
