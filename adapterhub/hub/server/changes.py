"""From the files of one revision and the operations of a commit to the files of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.errors import ArtifactError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.contents import check_path
from adapterhub.hub.server.records import Add, Delete, TreeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.hub.server.settings import HubSettings


def apply(
    tree: Mapping[str, TreeFile],
    operations: Iterable[Add | Delete],
    sizes: Mapping[str, int],
    settings: HubSettings,
) -> dict[str, TreeFile]:
    """Return the files after the operations.

    Args:
        tree: the files before, left as they are.
        operations: in order.
        sizes: sha256 to size of the bytes that the repository may use.
        settings: with the limits.

    Raises:
        HTTPError: naming the path of an operation that can't be done.
    """
    after = dict(tree)
    for operation in operations:
        if isinstance(operation, Delete):
            _delete(after, operation)
        else:
            check_path(operation.path)
            after[operation.path] = _file(operation, sizes, settings)
    if len(after) > settings.max_files:
        raise HTTPError(
            400, f"would hold {len(after)} files, the limit is {settings.max_files}", place="tree"
        )
    _check_folders(after)
    return after


def is_whole(tree: Mapping[str, TreeFile], manifest: Manifest) -> bool:
    """Return whether every file that the manifest lists is there.

    Raises:
        ArtifactError: naming the file that is not what the manifest says.
    """
    for name, entry in manifest.files.items():
        found = tree.get(name)
        if found is not None and (found.sha256, found.size) != (entry.sha256, entry.size):
            raise ArtifactError(
                f"has the sha256 {found.sha256} and {found.size} bytes, {MANIFEST_NAME} says "
                f"{entry.sha256} and {entry.size}",
                place=name,
                hint=f"Commit it together with the {MANIFEST_NAME} that lists it",
            )
    return manifest.files.keys() <= tree.keys()


def _delete(tree: dict[str, TreeFile], operation: Delete) -> None:
    path = operation.path.strip("/")
    if operation.folder:
        gone = [name for name in tree if name.startswith(f"{path}/")]
    else:
        gone = [path] if path in tree else []
    if not gone:
        # huggingface_hub looks for these words
        raise HTTPError(
            404, "A file with this name doesn't exist", code="EntryNotFound", place=operation.path
        )
    for name in gone:
        del tree[name]


def _file(operation: Add, sizes: Mapping[str, int], settings: HubSettings) -> TreeFile:
    size = sizes.get(operation.sha256)
    if size is None:
        raise HTTPError(
            400,
            f"the bytes with the sha256 {operation.sha256} were not uploaded to this repository",
            place=operation.path,
            hint="Upload them by Git-LFS first, then commit",
        )
    if operation.size not in (None, size):
        raise HTTPError(
            400, f"has {size} bytes, the commit says {operation.size}", place=operation.path
        )
    return TreeFile(operation.sha256, size, lfs=size > settings.max_inline)


def _check_folders(tree: Mapping[str, TreeFile]) -> None:
    """Require that no path is a file and a folder."""
    for path in tree:
        parts = path.split("/")
        for count in range(1, len(parts)):
            if (folder := "/".join(parts[:count])) in tree:
                raise HTTPError(400, f"is a file, and {path!r} lies in it", place=folder)
