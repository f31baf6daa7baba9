"""Repositories, revisions and files in the JSON that the Hub's clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.hub.server.records import hub_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.hub.server.records import Repository, Revision, TreeFile

#: Bytes of the file that stands for another one in git, as git-lfs writes it.
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"


def repository_view(repository: Repository, sha: str | None) -> dict[str, Any]:
    """Return what a list says about a repository; ``sha`` is its head."""
    view: dict[str, Any] = {
        "_id": str(repository.id),
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.owner,
        "sha": sha,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": hub_time(repository.created),
        "lastModified": hub_time(repository.modified),
        "tags": list(repository.tags),
    }
    if repository.pipeline_tag:
        view["pipeline_tag"] = repository.pipeline_tag
    if repository.library:
        view["library_name"] = repository.library
    return view


def info_view(
    repository: Repository, sha: str, tree: Mapping[str, TreeFile], oids: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return all about one revision of a repository.

    Args:
        repository: that it is of.
        sha: of the revision.
        tree: its files.
        oids: sha256 to git's name, where sizes and names of the bytes are asked for.
    """
    view = repository_view(repository, sha)
    view["cardData"] = dict(repository.card)
    view["siblings"] = [_sibling(path, file, oids) for path, file in tree.items()]
    view["usedStorage"] = sum(file.size for file in tree.values())
    view["spaces"] = []
    return view


def file_view(path: str, file: TreeFile, oid: str) -> dict[str, Any]:
    """Return an entry of a tree; ``oid`` is git's name for the bytes."""
    view: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": oid}
    if file.lfs:
        view["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
    return view


def commit_view(revision: Revision, *, formatted: bool) -> dict[str, Any]:
    """Return an entry of a history."""
    view: dict[str, Any] = {
        "id": revision.sha,
        "title": revision.title,
        "message": revision.message,
        "authors": [{"user": revision.author}],
        "date": revision.time,
    }
    if formatted:
        view["formatted"] = {"title": revision.title, "message": revision.message}
    return view


def _sibling(path: str, file: TreeFile, oids: Mapping[str, str] | None) -> dict[str, Any]:
    if oids is None:
        return {"rfilename": path}
    view: dict[str, Any] = {"rfilename": path, "size": file.size, "blobId": oids[file.sha256]}
    if file.lfs:
        lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
        view["lfs"] = lfs
    return view


def _pointer_size(file: TreeFile) -> int:
    return len(_POINTER.format(sha256=file.sha256, size=file.size))
