"""What a repository holds: info, files, branches, tags and history."""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.bodies import read_form
from adapterhub.hub.server.context import base_url, hub_of, readable
from adapterhub.hub.server.errors import COMMIT_HEADER, no_entry
from adapterhub.hub.server.params import is_true, page_size, path_of, revision_of, with_query
from adapterhub.hub.server.records import MAIN
from adapterhub.hub.server.views import commit_view, file_view, info_view

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from adapterhub.hub.server.context import Hub
    from adapterhub.hub.server.records import Revision, TreeFile


async def info(request: Request) -> Response:
    """Tell all about a revision, main where none is named."""
    found = await readable(request)
    hub = hub_of(request)
    revision = await run_in_threadpool(hub.store.revision, found, revision_of(request))
    tree = await run_in_threadpool(hub.store.tree, found, revision.sha)
    oids = await _oids(hub, tree) if is_true(request, "blobs") else None
    return JSONResponse(info_view(found, revision.sha, tree, oids))


async def list_tree(request: Request) -> Response:
    """List a folder, or with ``recursive`` all below it, a page at a time."""
    revision, tree, hub = await _tree(request)
    folder = path_of(request)
    inside = {path: file for path, file in tree.items() if _is_inside(path, folder)}
    if folder and not inside:
        raise no_entry(folder, revision.sha)
    names = _entries(inside, folder, recursive=is_true(request, "recursive"))
    after = request.query_params.get("cursor", "")
    size = page_size(request, hub.settings.max_page)
    left = [name for name in names if name > after]
    oids = await _oids(hub, {name: tree[name] for name in left[:size] if name in tree})
    page = [_entry(name, tree, oids, revision) for name in left[:size]]
    headers = {COMMIT_HEADER: revision.sha}
    if len(left) > size:
        following = with_query(request, cursor=left[size - 1])
        headers["Link"] = f'<{base_url(request)}{following}>; rel="next"'
    return JSONResponse(page, headers=headers)


async def paths_info(request: Request) -> Response:
    """Tell about the paths that are asked for; those that are not there are left out."""
    revision, tree, hub = await _tree(request)
    form = await read_form(request, hub.settings.max_json)
    wanted = form.get("paths", [])
    if len(wanted) > hub.settings.max_files:
        raise HTTPError(413, f"asks for more than {hub.settings.max_files} paths")
    files = {path: tree[path] for path in wanted if path in tree}
    oids = await _oids(hub, files)
    folders = {path for path in wanted if any(_is_inside(name, path) for name in tree)} - {""}
    found = [path for path in dict.fromkeys(wanted) if path in files or path in folders]
    return JSONResponse([_entry(path, tree, oids, revision) for path in found])


async def list_refs(request: Request) -> Response:
    """List branches and tags."""
    found = await readable(request)
    refs = await run_in_threadpool(hub_of(request).store.refs, found)
    branches, tags = (
        [
            {"name": ref.name, "ref": f"{prefix}{ref.name}", "targetCommit": ref.sha}
            for ref in refs
            if ref.kind == kind
        ]
        for kind, prefix in (("branch", "refs/heads/"), ("tag", "refs/tags/"))
    )
    # main comes first
    branches.sort(key=lambda branch: branch["name"] != MAIN)
    return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


async def list_commits(request: Request) -> Response:
    """List a revision and those before it, the newest first."""
    found = await readable(request)
    hub = hub_of(request)
    cursor = request.query_params.get("cursor")
    start = await run_in_threadpool(hub.store.revision, found, cursor or revision_of(request))
    size = page_size(request, hub.settings.max_page)
    history = await run_in_threadpool(hub.store.history, found, start.sha, limit=size + 1)
    formatted = "formatted" in request.query_params.getlist("expand[]")
    headers = {}
    if len(history) > size:
        following = with_query(request, cursor=history[size].sha)
        headers["Link"] = f'<{base_url(request)}{following}>; rel="next"'
    page = [commit_view(revision, formatted=formatted) for revision in history[:size]]
    return JSONResponse(page, headers=headers)


async def _tree(request: Request) -> tuple[Revision, dict[str, TreeFile], Hub]:
    found = await readable(request)
    hub = hub_of(request)
    revision = await run_in_threadpool(hub.store.revision, found, revision_of(request))
    return revision, await run_in_threadpool(hub.store.tree, found, revision.sha), hub


async def _oids(hub: Hub, tree: Mapping[str, TreeFile]) -> dict[str, str]:
    digests = {file.sha256 for file in tree.values()}
    return await run_in_threadpool(hub.store.git_names, digests)


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
    # folders have no bytes of their own; the name is unique, as a git tree's is
    oid = sha1(f"{revision.sha}/{path}".encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}
