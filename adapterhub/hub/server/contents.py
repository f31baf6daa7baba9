"""Which paths and files a repository may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import reject_pickle
from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from pathlib import Path

MAX_PATH = 1024
_MAX_PART = 255
#: Endings of archives; what they unpack to is not known before it is done.
_ARCHIVES = (
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst", ".lz4",
    ".lzma", ".lz", ".z", ".jar", ".whl", ".egg", ".cab", ".iso", ".npz", ".nemo", ".mar",
)  # fmt: skip
#: First bytes of archives, whatever they are called.
_MAGICS = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
)
_TAR_AT = 257
_HEAD = 512


def check_path(path: str) -> None:
    """Require a relative path of plain parts that names no pickle and no archive.

    Raises:
        HTTPError: saying what is wrong with ``path``.
        ArtifactError: when it is the name of a pickle.
    """
    parts = path.split("/")
    if not path or len(path) > MAX_PATH or any(len(part) > _MAX_PART for part in parts):
        raise _bad_path(path, "is empty or too long")
    if any(part in ("", ".", "..") for part in parts):
        raise _bad_path(path, "leaves the repository or has an empty part")
    if "\\" in path or "%2f" in path.lower() or not path.isprintable():
        raise _bad_path(path, "holds a backslash, '%2F' or a control character")
    if parts[0].endswith(":") or any(part.lower() == ".git" for part in parts):
        raise _bad_path(path, "is not for files of a repository")
    reject_pickle(parts[-1], path)
    if parts[-1].lower().endswith(_ARCHIVES):
        raise _archive(path)


def check_content(path: str, file: Path) -> None:
    """Refuse a file whose first bytes are those of an archive.

    Args:
        path: in the repository.
        file: with the bytes.

    Raises:
        HTTPError: when it is one.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    # a safetensors file begins with the length of its header, which can be any number
    tensors = path.endswith(".safetensors") and head[8:9] == b"{"
    if not tensors and (head.startswith(_MAGICS) or head[_TAR_AT:].startswith(b"ustar")):
        raise _archive(path)


def check_ref_name(name: str) -> None:
    """Require a name that a branch or a tag can have.

    Raises:
        HTTPError: otherwise.
    """
    parts = name.split("/")
    plain = all(part and part[0] != "." and part[0] != "-" and ".." not in part for part in parts)
    forbidden = any(char in " ~^:?*[\\%@{}" or not char.isprintable() for char in name)
    if not plain or forbidden or len(name) > _MAX_PART or name.startswith("refs/"):
        raise HTTPError(400, "cannot be the name of a branch or tag", place=repr(name)[:300])


def _bad_path(path: str, problem: str) -> HTTPError:
    return HTTPError(
        400, problem, place=repr(path)[:300], hint="Paths are relative, with '/' between parts"
    )


def _archive(path: str) -> HTTPError:
    return HTTPError(
        400,
        "is an archive, and archives are not accepted",
        place=repr(path)[:300],
        hint="Unpack it and upload the files",
    )
