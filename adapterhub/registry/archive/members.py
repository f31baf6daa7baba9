"""Plain files out of untrusted tar and zip files.

The standard library reads the formats, and its ``data`` filter rejects unsafe members of a tar
file. Added here are bounds on the size of headers, and the detection of files that are cut off or
damaged, which ``tarfile`` takes for their end.
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

#: Largest total size of the files in an archive, in bytes, which is that of an artifact.
MAX_BYTES = 4 * 1024**3
#: Largest number of files in an archive.
MAX_FILES = 1000

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
#: Largest size of all headers of one file, in bytes. Python before 3.11.10 needs quadratic time
#: for an extended header (CVE-2024-6232): 0.1 s at this size, 5 s for 64 KiB.
_MAX_HEADERS = 8192
#: Folders that an archive may list besides files.
_FOLDERS = ("artifact", "signatures")
#: Largest padding after the end of a tar file, in bytes; tools fill up to their block size.
_MAX_PADDING = 1024 * 1024
#: Largest size of a file in a zip file, relative to its compressed size; tensors reach 2, and
#: text 20. Small files may have any.
MAX_RATIO = 100
_RATIO_FROM = 1024 * 1024
#: Largest central directory of a zip file, in bytes.
_MAX_DIRECTORY = 1024 * 1024
_ZIP_END = 22
_ZIP64_LOCATOR = 20

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_HINT = "Create it with adapterhub export, or pack regular files with tar"


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive.

    Args:
        name: Name as written in the archive, not validated.
        size: Size in bytes that the archive declares.
        chunks: Content, to be consumed before the next member is requested; its length may
            differ from ``size``.
    """

    name: str
    size: int
    chunks: Iterator[bytes]


def read_members(file: BinaryIO, place: str) -> Iterator[Member]:
    """Yield the files of a tar or zip file in their order, without folders.

    Args:
        file: Archive at its beginning; only a zip file needs to be seekable.
        place: Name of the archive in error messages.
    """
    with _read_faults(place):
        head = _read_exactly(file, _BLOCK)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_members(file, place)
            return
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                raise ArtifactError(
                    f"is compressed with {kind}", place=place, hint="Decompress it first"
                )
        yield from _tar_members(file, head, place)


def _tar_members(file: BinaryIO, head: bytes, place: str) -> Iterator[Member]:
    source = _Source(file, head, place)
    with _tar_faults(source, place), _open_tar(source, place) as archive:
        for number, info in enumerate(archive):
            _check_tar_member(info, place)
            if number >= MAX_FILES + len(_FOLDERS):
                raise ArtifactError(f"has more than {MAX_FILES} files", place=place)
            if not info.isdir():
                yield Member(info.name, info.size, _tar_chunks(archive, info, source, place))
            source.allow(_MAX_HEADERS)
    # tarfile takes a damaged or missing header for the end
    if len(source.last) == _BLOCK and source.last != _ZEROS:
        raise ArtifactError("has a damaged header", place=place)
    if source.last != _ZEROS or _read_exactly(file, _BLOCK) != _ZEROS:
        raise _cut_off(place)
    _check_padding(file, place)


class _Source:
    """Stream that ``tarfile`` reads block by block, up to a budget of bytes.

    Args:
        file: Archive.
        head: Block that has been read from it already.
        place: Name of the archive in error messages.
    """

    def __init__(self, file: BinaryIO, head: bytes, place: str) -> None:
        #: Last block that was read; empty after ``allow`` and at the end of the file.
        self.last = b""
        #: Number of bytes that were read.
        self.position = 0
        self._file = file
        self._head = head
        self._place = place
        self._left = _MAX_HEADERS

    def allow(self, size: int) -> None:
        """Set the number of bytes that may be read from now on."""
        self._left = size
        self.last = b""

    def read(self, size: int) -> bytes:
        """Read one block."""
        if size > self._left:
            raise ArtifactError(
                f"has headers of more than {_MAX_HEADERS} bytes for one file",
                place=self._place,
                hint=_HINT,
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
        # after a first block that was understood, the file is cut off or damaged
        if source.position >= _BLOCK + len(source.last):
            raise
        raise ArtifactError("is not a tar or zip file", place=place, hint=_HINT) from error


def _check_tar_member(info: tarfile.TarInfo, place: str) -> None:
    shown = ascii(info.name)[:120]
    try:
        tarfile.data_filter(info, "/archive")
    except (tarfile.FilterError, ValueError) as error:
        raise ArtifactError(f"{shown} is unsafe", place=place, hint=_HINT) from error
    regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    folder = info.isdir() and _is_folder(info.name)
    if not (regular or folder) or info.size < 0:
        raise ArtifactError(f"{shown} is not a regular file", place=place, hint=_HINT)


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
            raise ArtifactError("has data after its end", place=place)


def _zip_members(file: BinaryIO, place: str) -> Iterator[Member]:
    if not file.seekable():
        raise ArtifactError("a zip file cannot be piped", place=place, hint="Pipe a tar file")
    _check_zip_directory(file, place)
    with zipfile.ZipFile(file) as archive:
        _check_zip_sizes(archive.infolist(), place)
        for info in archive.infolist():
            # ``filename`` is cleaned up, which would hide an unsafe name
            name = info.orig_filename
            _check_zip_member(info, name, place)
            if not name.endswith("/"):
                yield Member(name, info.file_size, _zip_chunks(archive, info, place))


def _check_zip_directory(file: BinaryIO, place: str) -> None:
    """Reject a central directory that would need much memory."""
    size = file.seek(0, 2)
    tail = min(size, _ZIP_END + _ZIP64_LOCATOR)
    file.seek(size - tail)
    data = _read_exactly(file, tail)
    end = data[-_ZIP_END:]
    if not end.startswith(b"PK\x05\x06") or end[20:] != b"\0\0":
        raise ArtifactError("is cut off, or has a comment at its end", place=place)
    large = data[:-_ZIP_END].startswith(b"PK\x06\x07")
    if large or int.from_bytes(end[12:16], "little") > _MAX_DIRECTORY:
        raise ArtifactError("has too large a central directory", place=place)
    file.seek(0)


def _check_zip_sizes(members: list[zipfile.ZipInfo], place: str) -> None:
    """Reject what would fill the disk, by the sizes in the headers, before anything is unpacked."""
    if len(members) > MAX_FILES + len(_FOLDERS):
        raise ArtifactError(f"has more than {MAX_FILES} files", place=place)
    if (total := sum(info.file_size for info in members)) > MAX_BYTES:
        raise ArtifactError(
            f"is too large: it unpacks to {total} bytes, the limit is {MAX_BYTES}", place=place
        )
    for info in members:
        if info.file_size > _RATIO_FROM + MAX_RATIO * info.compress_size:
            raise ArtifactError(
                f"{ascii(info.orig_filename)[:120]} unpacks to {info.file_size} bytes from "
                f"{info.compress_size}",
                place=place,
                hint="Pack it without compression",
            )


def _check_zip_member(info: zipfile.ZipInfo, name: str, place: str) -> None:
    kind, shown = stat.S_IFMT(info.external_attr >> 16), ascii(name)[:120]
    if name.endswith("/"):
        regular = _is_folder(name) and not info.file_size and kind in (0, stat.S_IFDIR)
    else:
        regular = kind in (0, stat.S_IFREG)
    if not regular:
        raise ArtifactError(f"{shown} is not a regular file", place=place, hint=_HINT)
    if info.flag_bits & 0x1:
        raise ArtifactError(f"{shown} is encrypted", place=place, hint="Pack it unencrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(
            f"{shown} is compressed with an unsupported method", place=place, hint="Use deflate"
        )


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str) -> Iterator[bytes]:
    with _read_faults(place), archive.open(info) as file:
        yield from read_chunks(cast("BinaryIO", file), MAX_BYTES + 1)


@contextmanager
def _read_faults(place: str) -> Iterator[None]:
    """Translate errors of reading; a consumer's own errors do not pass through here."""
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
    """Read ``size`` bytes, fewer only at the end of the file; a pipe returns them in parts."""
    return b"".join(read_chunks(file, size))


def _cut_off(place: str) -> ArtifactError:
    return ArtifactError("is cut off", place=place, hint="Copy or download it again")
