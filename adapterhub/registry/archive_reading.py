"""Reading tar and zip files that anyone may have made: plain files with plain names, and no more.

The standard library reads the formats. Here stands what it would let pass: links, devices, sparse
files, compressed tars, headers of any size, and a tar that is cut off or damaged where a header
should be. Bytes are counted while they are read, whatever a header says of them.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

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
#: Longest name that is read, in characters; names in an export have at most 137.
_MAX_NAME = 512
#: Most bytes of all headers of one file. Python before 3.11.10 searches an extended header in
#: quadratic time (CVE-2024-6232): one of this size takes 0.1 s, one of 64 KiB 5 s.
_MAX_HEADERS = 8192
#: Folders that a tar file may list, besides files.
_FOLDERS = ("artifact", "signatures")
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
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
_PLAIN = "Make it with adapterhub export, or pack plain files with tar"


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
    source = _Source(file, head, place)
    with _tar_faults(source, place), _open_tar(source, place) as archive:
        for number, info in enumerate(archive):
            _check_tar_kind(info, place)
            if number >= MAX_FILES + len(_FOLDERS):
                raise ArtifactError(f"has more than {MAX_FILES} files", place=place)
            if not info.isdir():
                yield Entry(info.name, info.size, _tar_chunks(archive, info, source, place))
            source.allow(_MAX_HEADERS)
    # tarfile takes a damaged or missing header for the end
    if len(source.last) == _BLOCK and source.last != _ZEROS:
        raise ArtifactError("has a damaged header", place=place)
    if source.last != _ZEROS or _read_exactly(file, _BLOCK) != _ZEROS:
        raise _cut_off(place)
    _check_padding(file, place)


class _Source:
    """What ``tarfile`` reads from, block by block: no more than is allowed at a time.

    Args:
        file: to read from.
        head: what has been read of it already.
        place: what errors call it.
    """

    def __init__(self, file: BinaryIO, head: bytes, place: str) -> None:
        #: The block that was read last; empty after ``allow`` and where the file has ended.
        self.last = b""
        #: Bytes that were read.
        self.position = 0
        self._file = file
        self._head = head
        self._place = place
        self._left = _MAX_HEADERS

    def allow(self, size: int) -> None:
        """Let this many bytes be read from now on, in place of what was allowed before."""
        self._left = size
        self.last = b""

    def read(self, size: int) -> bytes:
        """Read one block.

        Raises:
            ArtifactError: when it is not allowed; nothing is read.
        """
        if size > self._left:
            raise ArtifactError(
                f"has headers of more than {_MAX_HEADERS} bytes for one file",
                place=self._place,
                hint=_PLAIN,
            )
        self.last, self._head = self._head or _read_exactly(self._file, size), b""
        self.position += len(self.last)
        self._left -= len(self.last)
        return self.last


def _open_tar(source: _Source, place: str) -> tarfile.TarFile:
    stream: Any = source
    try:
        # with blocks of this size nothing is read ahead, so ``source.last`` is the last header
        return tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, encoding="utf-8")
    except tarfile.ReadError as error:
        # what comes after a first block that was understood is cut off or damaged
        if source.position >= _BLOCK + len(source.last):
            raise
        raise ArtifactError("is no tar or zip file", place=place, hint=_PLAIN) from error


def _check_tar_kind(info: tarfile.TarInfo, place: str) -> None:
    if len(info.name) > _MAX_NAME:
        raise ArtifactError(f"has a name of {len(info.name)} characters", place=place)
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    if not plain and not (info.isdir() and _is_folder(info.name)):
        what = _KINDS.get(info.type, f"of the unknown kind {info.type!r}")
        what = "a sparse file" if info.issparse() else what
        raise ArtifactError(f"{info.name!r} is {what}", place=place, hint=_PLAIN)
    if info.size < 0:
        raise ArtifactError(f"{info.name!r} has a size below 0", place=place)


def _tar_chunks(
    archive: tarfile.TarFile, info: tarfile.TarInfo, source: _Source, place: str
) -> Iterator[bytes]:
    with _read_faults(place), _tar_faults(source, place):
        source.allow(info.size + _BLOCK)
        yield from read_chunks(cast("BinaryIO", archive.extractfile(info)), info.size)


@contextmanager
def _tar_faults(source: _Source, place: str) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        if len(source.last) < _BLOCK:
            raise _cut_off(place) from error
        raise ArtifactError(f"is damaged: {error}", place=place) from error


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
    return name.rstrip("/") in _FOLDERS


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, fewer only where the file ends; a pipe gives them in parts."""
    return b"".join(read_chunks(file, size))


def _cut_off(place: str) -> ArtifactError:
    return ArtifactError("is cut off", place=place, hint="Copy or fetch it again")
