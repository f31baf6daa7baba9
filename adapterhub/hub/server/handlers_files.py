"""Endpoints that read the files of a revision."""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import COMMIT_HEADER, no_entry
from adapterhub.hub.server.requests import (
    hub_of,
    is_true,
    next_link,
    page_size,
    path_of,
    readable,
    revision_of,
)
from adapterhub.hub.server.responses import BlobResponse, commit_view, file_view, info_view

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from adapterhub.hub.server.records import Revision, TreeFile
    from adapterhub.hub.server.requests import Hub


def info(request: Request) -> Response:
    """Describe a revision, main by default."""
    found, store = readable(request), hub_of(request).store
    revision = store.revision(found, revision_of(request))
    tree = store.tree(found, revision.sha)
    oids = _oids(hub_of(request), tree) if is_true(request, "blobs") else None
    return JSONResponse(info_view(found, revision.sha, tree, oids))


def list_tree(request: Request) -> Response:
    """List a folder, with ``recursive`` also its subfolders, one page at a time."""
    revision, tree, hub = _tree(request)
    folder = path_of(request)
    inside = {path: file for path, file in tree.items() if _is_inside(path, folder)}
    if folder and not inside:
        raise no_entry(folder, revision.sha)
    names = _entries(inside, folder, recursive=is_true(request, "recursive"))
    after = request.query_params.get("cursor", "")
    size = page_size(request, hub.settings.max_page)
    left = [name for name in names if name > after]
    page = left[:size]
    oids = _oids(hub, {name: tree[name] for name in page if name in tree})
    following = next_link(request, page[-1]) if len(left) > size else {}
    return JSONResponse(
        [_entry(name, tree, oids, revision) for name in page],
        headers={COMMIT_HEADER: revision.sha, **following},
    )


def paths_info(request: Request, form: dict[str, list[str]]) -> Response:
    """Describe the requested paths that exist."""
    revision, tree, hub = _tree(request)
    wanted = form.get("paths", [])
    if len(wanted) > hub.settings.max_files:
        raise HTTPError(413, f"requests more than {hub.settings.max_files} paths")
    files = {path: tree[path] for path in wanted if path in tree}
    oids = _oids(hub, files)
    folders = set(_entries(tree, "", recursive=True)) - tree.keys()
    found = [path for path in dict.fromkeys(wanted) if path in files or path in folders]
    return JSONResponse([_entry(path, tree, oids, revision) for path in found])


def list_commits(request: Request) -> Response:
    """List a revision and its ancestors, the newest first."""
    found, hub = readable(request), hub_of(request)
    cursor = request.query_params.get("cursor")
    start = hub.store.revision(found, cursor or revision_of(request))
    size = page_size(request, hub.settings.max_page)
    history = hub.store.history(found, start.sha, limit=size + 1)
    formatted = "formatted" in request.query_params.getlist("expand[]")
    following = next_link(request, history[size].sha) if len(history) > size else {}
    page = [commit_view(revision, formatted=formatted) for revision in history[:size]]
    return JSONResponse(page, headers=following)


def resolve(request: Request) -> Response:
    """Send a file of a revision; ``HEAD`` returns its size, entity tag and commit."""
    found, store = readable(request), hub_of(request).store
    path = path_of(request)
    revision, file = store.file(found, revision_of(request), path)
    oids = {} if file.lfs else store.git_names({file.sha256})
    headers = {
        "ETag": f'"{file.etag(oids.get(file.sha256, ""))}"',
        COMMIT_HEADER: revision.sha,
        # keeps browsers from running uploaded files as pages of this address
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
    }
    kind = "application/octet-stream"
    if request.method == "HEAD":
        headers["Content-Length"] = str(file.size)
        headers["Accept-Ranges"] = "bytes"
        return Response(headers=headers, media_type=kind)
    blob = store.blobs.checked(file.sha256)
    name = path.rpartition("/")[2]
    return BlobResponse(blob, headers=headers, filename=name, media_type=kind)


def _tree(request: Request) -> tuple[Revision, dict[str, TreeFile], Hub]:
    found, hub = readable(request), hub_of(request)
    revision = hub.store.revision(found, revision_of(request))
    return revision, hub.store.tree(found, revision.sha), hub


def _oids(hub: Hub, tree: Mapping[str, TreeFile]) -> dict[str, str]:
    return hub.store.git_names({file.sha256 for file in tree.values()})


def _is_inside(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _entries(tree: Mapping[str, TreeFile], folder: str, *, recursive: bool) -> list[str]:
    """Return the paths of files and folders to list, sorted."""
    names: set[str] = set()
    skipped = len(folder) + 1 if folder else 0
    for path in tree:
        parts = path[skipped:].split("/")
        depth = len(parts) if recursive else 1
        names.update(path[:skipped] + "/".join(parts[: count + 1]) for count in range(depth))
    return sorted(names)


def _entry(
    path: str, tree: Mapping[str, TreeFile], oids: Mapping[str, str], revision: Revision
) -> dict[str, Any]:
    if path in tree:
        return file_view(path, tree[path], oids[tree[path].sha256])
    # a folder has no bytes; the name is unique, as that of a git tree
    oid = sha1(f"{revision.sha}/{path}".encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}
