"""The files of a revision: allowed paths and contents, and the operations of a commit."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from adapterhub.adapters import unsafe_files
from adapterhub.adapters.manifest import MANIFEST_NAME, reject_pickle
from adapterhub.errors import ArtifactError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import Add, Delete, TreeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.hub.server.settings import HubSettings

MAX_PATH = 1024
#: Characters that Windows forbids or reads as a drive or a stream, and encodings of others.
_FORBIDDEN = re.compile(r'[\\:*?"<>|]|%[0-9A-Fa-f]{2}')
#: Names of devices of Windows, with any suffix.
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.IGNORECASE
)
_MAX_PART = 255
#: Suffixes of archives, whose unpacked content cannot be checked.
_ARCHIVES = (
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst", ".lz4",
    ".lzma", ".lz", ".z", ".jar", ".whl", ".egg", ".cab", ".iso", ".npz", ".nemo", ".mar",
)  # fmt: skip


def apply(
    tree: Mapping[str, TreeFile],
    operations: Iterable[Add | Delete],
    sizes: Mapping[str, int],
    settings: HubSettings,
) -> dict[str, TreeFile]:
    """Return the files after the operations of a commit."""
    after = dict(tree)
    added: set[str] = set()
    for operation in operations:
        if isinstance(operation, Delete):
            _delete(after, operation)
        else:
            check_path(operation.path)
            if operation.path in added:
                raise _bad_path(operation.path, "is added twice by one commit")
            added.add(operation.path)
            after[operation.path] = _file(operation, sizes, settings)
    if len(after) > settings.max_files:
        problem = f"would have {len(after)} files, the limit is {settings.max_files}"
        raise HTTPError(400, problem, place="tree")
    _check_folders(after)
    _check_collisions(after)
    return after


def is_complete(tree: Mapping[str, TreeFile], manifest: Manifest) -> bool:
    """Return whether a tree has every file of a manifest."""
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


def check_path(path: str) -> None:
    """Check that a path names the same file on every system, and no pickle or archive."""
    parts = path.split("/")
    if not path or len(path) > MAX_PATH or any(len(part) > _MAX_PART for part in parts):
        raise _bad_path(path, "is empty or too long")
    if any(part in ("", ".", "..") for part in parts):
        raise _bad_path(path, "leaves the repository or has an empty part")
    if not path.isprintable() or _FORBIDDEN.search(path):
        raise _bad_path(
            path, 'contains a control character, a percent-encoding or one of \\ : * ? " < > |'
        )
    if any(part[-1] in ". " or part[0] == " " for part in parts):
        raise _bad_path(path, "has a part that ends with a dot or a space, or begins with a space")
    if any(part.lower() == ".git" or _RESERVED.fullmatch(part) for part in parts):
        raise _bad_path(path, "has a part that is reserved by git or Windows")
    reject_pickle(parts[-1], path)
    if parts[-1].lower().endswith(_ARCHIVES):
        raise _archive(path)


def check_content(path: str, file: Path) -> None:
    """Reject pickles and archives by their content, and files of adapters that cannot be parsed."""
    unsafe_files.check_content(path, file, repr(path)[:300])


def check_ref_name(name: str) -> None:
    """Check the name of a branch or a tag."""
    parts = name.split("/")
    plain = all(part and part[0] != "." and part[0] != "-" and ".." not in part for part in parts)
    forbidden = any(char in " ~^:?*[\\%@{}" or not char.isprintable() for char in name)
    if not plain or forbidden or len(name) > _MAX_PART or name.startswith("refs/"):
        raise HTTPError(400, "cannot be the name of a branch or tag", place=repr(name)[:300])


def _delete(tree: dict[str, TreeFile], operation: Delete) -> None:
    path = operation.path.strip("/")
    if operation.folder:
        gone = [name for name in tree if name.startswith(f"{path}/")]
    else:
        gone = [path] if path in tree else []
    if not gone:
        # huggingface_hub looks for these words
        problem = "A file with this name doesn't exist"
        raise HTTPError(404, problem, code="EntryNotFound", place=operation.path)
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
        problem = f"has {size} bytes, the commit says {operation.size}"
        raise HTTPError(400, problem, place=operation.path)
    return TreeFile(operation.sha256, size, lfs=size > settings.max_inline)


def _check_folders(tree: Mapping[str, TreeFile]) -> None:
    """Check that no path is both a file and a folder."""
    for path in tree:
        parts = path.split("/")
        for count in range(1, len(parts)):
            if (folder := "/".join(parts[:count])) in tree:
                raise HTTPError(400, f"is a file, and {path!r} is inside it", place=folder)


def _check_collisions(tree: Mapping[str, TreeFile]) -> None:
    """Check that no two paths are one on a system that ignores case or normalizes Unicode."""
    seen: dict[str, str] = {}
    for path in tree:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            here = "/".join(parts[:count])
            folded = unicodedata.normalize("NFKC", here).casefold()
            known = seen.setdefault(folded, here)
            if known != here:
                raise _bad_path(here, f"is the same as {known!r} on some systems")


def _bad_path(path: str, problem: str) -> HTTPError:
    hint = "Paths are relative, with '/' between parts"
    return HTTPError(400, problem, place=repr(path)[:300], hint=hint)


def _archive(path: str) -> HTTPError:
    return HTTPError(
        400,
        "is an archive, and archives are not accepted",
        place=repr(path)[:300],
        hint="Unpack it and upload the files",
    )
