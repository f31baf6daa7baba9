"""Reading tar and zip files that anyone may have made: plain files with plain names, and no more.

Only what an export needs is understood, so little can be meant otherwise than it is read: no
links, no devices, no sparse files, no extended headers, no compressed tar. Bytes are counted
while they are read, whatever a header says of them.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from adapterhub.errors import ArtifactError
from adapterhub.registry.blobs import read_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Largest sum of the files of one archive, in bytes; no larger artifact is read anyway.
MAX_BYTES = 4 * 1024**3
#: Most files of one archive.
MAX_FILES = 1000

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
#: Longest name that is read, in bytes; names in an export have at most 137.
_MAX_NAME = 512
#: Most zeros after the end of a tar file, in bytes; tools fill up to their own block size.
_MAX_PADDING = 1024 * 1024
#: Largest table of contents of a zip file, in bytes.
_MAX_TABLE = 1024 * 1024
_ZIP_END = 22
_ZIP64_LOCATOR = 20

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"x": "an extended header",
    b"g": "an extended header",
    b"K": "a link with a long name",
}
_PLAIN = "Make it with adapterhub export, or pack plain files with tar --format=ustar"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive.

    Args:
        name: as written in the archive, not checked.
        size: that the archive says it has, in bytes.
        chunks: its bytes, to be read before the next entry is asked for; they may be more or
            fewer than ``size``.
    """

    name: str
    size: int
    chunks: Iterator[bytes]


def read_archive(file: BinaryIO, place: str) -> Iterator[Entry]:
    """Yield the files of a tar or zip file in its order, folders left out.

    Args:
        file: at its beginning; only a zip file needs to be seekable.
        place: what errors call it.

    Raises:
        ArtifactError: when it is neither, is cut off, or holds what is no plain file.
    """
    with _read_faults(place):
        head = _read_exactly(file, _BLOCK)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_entries(file, place)
            return
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                raise ArtifactError(
                    f"is compressed with {kind}", place=place, hint="Decompress it first"
                )
        yield from _tar_entries(file, head, place)


def _tar_entries(file: BinaryIO, head: bytes, place: str) -> Iterator[Entry]:
    long_name: bytes | None = None
    first = True
    while head != _ZEROS:
        _check_header(head, place, first=first)
        first = False
        size = _tar_number(head[124:136], place)
        name = _tar_name(head) if long_name is None else long_name
        kind = head[156:157]
        if kind == b"L" and long_name is None:
            long_name = _long_name(file, size, place)
        else:
            long_name = None
            text = _decode(name, place)
            if kind in (b"0", b"\0") or (kind == b"5" and size == 0):
                if kind != b"5":
                    yield Entry(text, size, _tar_chunks(file, size, place))
                elif not _is_folder(text):
                    raise ArtifactError(f"{text!r} is a folder", place=place, hint=_PLAIN)
            else:
                what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
                raise ArtifactError(f"{text!r} is {what}", place=place, hint=_PLAIN)
        head = _read_exactly(file, _BLOCK)
    if long_name is not None or _read_exactly(file, _BLOCK) != _ZEROS:
        raise _cut_off(place)
    _check_padding(file, place)


def _check_header(head: bytes, place: str, *, first: bool) -> None:
    if len(head) < _BLOCK and not first:
        raise _cut_off(place)
    # the sum is taken with blanks in its own place
    found = sum(head[:148]) + sum(head[156:]) + 8 * ord(" ")
    if len(head) < _BLOCK or found != _tar_number(head[148:156], place, fallback=-1):
        if first:
            raise ArtifactError("is no tar or zip file", place=place, hint=_PLAIN)
        raise ArtifactError("has a damaged header", place=place)


def _tar_number(field: bytes, place: str, fallback: int | None = None) -> int:
    digits = field.strip(b" \0")
    if digits.isdigit() and not digits.strip(b"01234567"):
        return int(digits, 8)
    if fallback is None:
        raise ArtifactError("has a size that is no number or too large", place=place)
    return fallback


def _tar_name(head: bytes) -> bytes:
    name = head[:100].partition(b"\0")[0]
    prefix = head[345:500].partition(b"\0")[0]
    # GNU tar has other things where ustar has the beginning of a long name
    return prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name


def _long_name(file: BinaryIO, size: int, place: str) -> bytes:
    if size > _MAX_NAME:
        raise ArtifactError(f"has a name of {size} bytes", place=place)
    return b"".join(_tar_chunks(file, size, place)).rstrip(b"\0")


def _decode(name: bytes, place: str) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{name!r} is no name of a file", place=place) from error


def _tar_chunks(file: BinaryIO, size: int, place: str) -> Iterator[bytes]:
    left = size
    with _read_faults(place):
        for chunk in read_chunks(file, size):
            left -= len(chunk)
            yield chunk
        padding = -size % _BLOCK
        if left or len(_read_exactly(file, padding)) < padding:
            raise _cut_off(place)


def _check_padding(file: BinaryIO, place: str) -> None:
    left = _MAX_PADDING + 1
    for chunk in read_chunks(file, left):
        left -= len(chunk)
        if not left or chunk.strip(b"\0"):
            raise ArtifactError("has something after its end", place=place)


def _zip_entries(file: BinaryIO, place: str) -> Iterator[Entry]:
    if not file.seekable():
        raise ArtifactError("a zip file must be a file", place=place, hint="Pipe a tar file")
    _check_zip_table(file, place)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            # what the library makes of a name hides what is wrong with it
            name = info.orig_filename
            _check_zip_kind(info, name, place)
            if not name.endswith("/"):
                yield Entry(name, info.file_size, _zip_chunks(archive, info, place))


def _check_zip_table(file: BinaryIO, place: str) -> None:
    """Refuse a table of contents that it would cost much to read."""
    size = file.seek(0, 2)
    tail = min(size, _ZIP_END + _ZIP64_LOCATOR)
    file.seek(size - tail)
    data = _read_exactly(file, tail)
    end = data[-_ZIP_END:]
    if not end.startswith(b"PK\x05\x06") or end[20:] != b"\0\0":
        raise ArtifactError("is cut off, or has a comment at its end", place=place)
    large = data[:-_ZIP_END].startswith(b"PK\x06\x07")
    if large or int.from_bytes(end[12:16], "little") > _MAX_TABLE:
        raise ArtifactError("has too large a table of contents", place=place)
    file.seek(0)


def _check_zip_kind(info: zipfile.ZipInfo, name: str, place: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    folder = name.endswith("/")
    if folder and (not _is_folder(name) or info.file_size or kind not in (0, stat.S_IFDIR)):
        raise ArtifactError(f"{name!r} is a folder", place=place, hint=_PLAIN)
    if not folder and kind not in (0, stat.S_IFREG):
        what = "a symbolic link" if kind == stat.S_IFLNK else "not a regular file"
        raise ArtifactError(f"{name!r} is {what}", place=place, hint=_PLAIN)
    if info.flag_bits & 0x1:
        raise ArtifactError(f"{name!r} is encrypted", place=place, hint="Pack it without")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(f"{name!r} is compressed in a way that is not read", place=place)


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str) -> Iterator[bytes]:
    with _read_faults(place), archive.open(info) as file:
        yield from read_chunks(cast("BinaryIO", file), MAX_BYTES + 1)


@contextmanager
def _read_faults(place: str) -> Iterator[None]:
    """Translate what reading meets; a consumer's own errors do not come by here."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror or error}", place=place) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        LookupError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ArtifactError(f"is damaged: {error}", place=place) from error


def _is_folder(name: str) -> bool:
    return name.rstrip("/") in ("artifact", "signatures")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, fewer only where the file ends; a pipe gives them in parts."""
    return b"".join(read_chunks(file, size))


def _cut_off(place: str) -> ArtifactError:
    return ArtifactError("is cut off", place=place, hint="Copy or fetch it again")
