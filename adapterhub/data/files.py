"""Data files as streams: compression, members of archives, encodings, and bounds on their size."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TextIO

from adapterhub.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Largest document in bytes that is read into memory; in memory it takes several times that.
MAX_BYTES = 2 * 1024**3
#: Largest file of examples in bytes, unpacked.
MAX_UNPACKED_BYTES = 256 * 1024**3
#: Longest line of a file of examples, in characters.
MAX_LINE = 64 * 1024**2
NO_EXAMPLES_HINT = "Is it the right file, and was it written to its end?"
#: Bytes from which an unknown encoding is guessed.
_SAMPLE_BYTES = 256 * 1024
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_READ_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def _open_zstd(path: Path, mode: str) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


#: How a compressed file is opened, by its suffix.
_OPENERS: dict[str, Callable[[Path, Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of examples on disk, or a member of a zip archive.

    Args:
        path: File, or the archive that holds it.
        origin: Name in messages.
        member: Name in the archive; empty where ``path`` is the file.
    """

    path: Path
    origin: str
    member: str = ""

    @property
    def suffix(self) -> str:
        """Suffix that names the format, in lower case, without that of a compression."""
        name = PurePosixPath((self.member or self.path.name).lower())
        return (name.with_suffix("") if name.suffix in _OPENERS else name).suffix

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the unpacked bytes.

        Raises:
            DataError: when they can't be read, or are damaged.
        """
        try:
            if self.member:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                    yield stream
            else:
                opener = _OPENERS.get(self.path.suffix.lower(), Path.open)
                with opener(self.path, "rb") as stream:
                    yield stream
        except _READ_FAULTS as error:
            reason = " ".join(str(error).split())
            raise DataError(f"can't be read: {reason}", place=self.origin) from error

    def read(self) -> bytes:
        """Return the unpacked bytes.

        Raises:
            DataError: when the file is larger than ``MAX_BYTES``.
        """
        with self.open() as stream:
            content = stream.read(MAX_BYTES + 1)
        check_size(len(content), self.origin)
        return content


def find_file(path: Path, origin: str) -> None:
    """Check that there is a file.

    Raises:
        DataError: when there is none, with similar names.
    """
    try:
        if path.is_file():
            return
        problem, hint = _why_missing(path)
    except (OSError, ValueError) as error:
        raise DataError(f"can't be read: {error}", place=origin) from error
    raise DataError(problem, place=origin, hint=hint)


def text_lines(file: DataFile, encoding: str | None, *, newline: str = "\n") -> Iterator[str]:
    """Yield the lines of a text with their ends, read as they are needed.

    Args:
        file: File of text.
        encoding: Encoding; by default UTF-8, or what a byte-order mark says.
        newline: What ends a line, as in ``io.TextIOWrapper``.

    Raises:
        DataError: naming the line that is too long or not in the encoding, or a blank file.
        RecipeError: when there is no such encoding.
    """
    blank = True
    size = 0
    with _open_text(file, encoding, newline) as stream:
        number = 0
        while True:
            try:
                line = stream.readline(MAX_LINE)
            except UnicodeError as error:
                raise _not_decoded(file, stream.encoding) from error
            if not line:
                break
            number += 1
            size += len(line)
            _check_line(line, size, number, file.origin)
            blank = blank and not line.strip()
            yield line
    if blank:
        raise DataError("holds no examples", place=file.origin, hint=NO_EXAMPLES_HINT)


def read_text(file: DataFile, encoding: str | None) -> str:
    """Return the text of a file that is one document, at most ``MAX_BYTES``; see ``text_lines``."""
    parts: list[str] = []
    size = 0
    for line in text_lines(file, encoding):
        size += len(line)
        check_size(size, file.origin)
        parts.append(line)
    return "".join(parts)


def check_size(size: int, origin: str) -> None:
    """Require a size of at most ``MAX_BYTES``, which fits into memory."""
    if size > MAX_BYTES:
        raise DataError(
            f"holds more than the {MAX_BYTES / 1024**3:.3g} GiB that are read into memory",
            place=origin,
            hint="Train on a sample of its examples, or save them as JSON Lines",
        )


def check_encoding(encoding: str | None) -> None:
    """Require an encoding that Python knows.

    Raises:
        RecipeError: naming ``data.encoding``.
    """
    try:
        if encoding is None or codecs.lookup(encoding)._is_text_encoding:
            return
    except LookupError:
        pass
    raise RecipeError(
        f"there is no encoding {encoding!r}",
        place="data.encoding",
        hint="Names are those of Python, such as utf-8, utf-16, cp1252, gb18030 or shift_jis",
    )


@contextmanager
def _open_text(file: DataFile, encoding: str | None, newline: str) -> Iterator[TextIO]:
    check_encoding(encoding)
    with file.open() as stream:
        buffered: Any = io.BufferedReader(_Raw(stream))
        start = buffered.peek(4)[:4]
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), None)
        name = marked if encoding is None else _of_the_mark(encoding, marked)
        yield io.TextIOWrapper(buffered, encoding=name or "utf-8", newline=newline)


def _of_the_mark(encoding: str, marked: str | None) -> str:
    """Return an encoding that skips the byte-order mark where there is one."""
    plain = codecs.lookup(encoding).name
    return "utf-8-sig" if plain == "utf-8" and marked == "utf-8-sig" else plain


class _Raw(io.RawIOBase):
    """A stream of bytes of any library as the raw stream that ``io`` buffers."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _check_line(line: str, size: int, number: int, origin: str) -> None:
    if "\0" in line:
        raise DataError(
            "holds NUL characters",
            place=f"{origin} line {number}",
            hint="It looks like UTF-16 without a byte-order mark; set data.encoding: utf-16-le",
        )
    if len(line) >= MAX_LINE:
        raise DataError(
            f"is longer than {MAX_LINE:,} characters",
            place=f"{origin} line {number}",
            hint="A file of examples has one example a line",
        )
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"holds more than {MAX_UNPACKED_BYTES / 1024**3:.3g} GiB unpacked", place=origin
        )


def _not_decoded(file: DataFile, encoding: str) -> DataError:
    """Return the error of a text that is not in its encoding, naming the line and a guess."""
    decoder = codecs.getincrementaldecoder(encoding)()
    sample, line = b"", 1
    with file.open() as stream:
        while block := stream.read(_SAMPLE_BYTES):
            sample = sample or block
            try:
                line += decoder.decode(block).count("\n")
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, max(error.start, 0))
                sample = block
                break
    name = encoding.removesuffix("-sig").upper()
    return DataError(
        f"is not {name} text", place=f"{file.origin} line {line}", hint=_encoding_hint(sample)
    )


def _encoding_hint(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    found = from_bytes(sample).best()
    guess = f"; it may be {found.encoding}" if found is not None else ""
    return f"Set data.encoding to the encoding it was saved in{guess}"


def _why_missing(path: Path) -> tuple[str, str]:
    if path.is_dir():
        near = did_you_mean(path.name, _file_names(path))
        pattern = "Name its files, also by a pattern such as folder/*.jsonl"
        return "is a folder, not a file", f"{pattern}. {near}" if near else pattern
    if path.exists():
        return "is not a plain file", ""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}", ""
    return "there is no such file", did_you_mean(path.name, _file_names(path.parent))


def _file_names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_file()]
