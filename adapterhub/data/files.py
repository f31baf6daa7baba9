"""Lookup of data files and reading of their text, bounded in size."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from adapterhub.data.dataset import FileSource

#: Largest unpacked file in bytes; examples in memory take several times the size of their text.
MAX_BYTES = 2 * 1024**3
NO_EXAMPLES_HINT = "Is it the right file, and was it written to its end?"


def find_file(source: FileSource, base_dir: Path) -> Path:
    """Return the path of an existing file of acceptable size.

    Raises:
        DataError: when there is no such file, with similar names, or it is too large.
    """
    path = base_dir / Path(source.path).expanduser()
    try:
        if path.is_file():
            check_size(path.stat().st_size, source.path)
            return path
        problem, hint = _why_missing(path)
    except (OSError, ValueError) as error:
        raise DataError(f"can't be read: {error}", place=source.path) from error
    raise DataError(problem, place=source.path, hint=hint)


def read_text(path: Path, origin: str) -> str:
    """Return the text of a UTF-8 file, unpacked when its name ends in ``.gz``.

    A byte-order mark is dropped; line ends are kept.

    Raises:
        DataError: when the file is too large, damaged, blank or not UTF-8.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", place=origin) from error
    check_size(len(content), origin)
    text = _decode(content, origin)
    if "\0" in text:
        raise DataError(
            "holds NUL characters",
            place=f"{origin} line {text.count(chr(10), 0, text.index(chr(0))) + 1}",
            hint="It looks like UTF-16 without a byte-order mark; save it as UTF-8",
        )
    if not text.strip():
        raise DataError("holds no examples", place=origin, hint=NO_EXAMPLES_HINT)
    return text


def check_size(size: int, origin: str) -> None:
    """Require a size of at most ``MAX_BYTES``, which fits into memory."""
    if size > MAX_BYTES:
        raise DataError(
            f"holds more than the {MAX_BYTES / 1024**3:.3g} GiB that are read into memory",
            place=origin,
            hint="Train on a sample of its examples",
        )


def _why_missing(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "is a folder, not a file", did_you_mean(path.name, _file_names(path))
    if path.exists():
        return "is not a plain file", ""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}", ""
    return "there is no such file", did_you_mean(path.name, _file_names(path.parent))


def _file_names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_file()]


def _decode(content: bytes, origin: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            hint = "It looks like UTF-16; save it as UTF-8"
        else:
            hint = "Save it as UTF-8; older programs write Latin-1 or Windows-1252"
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError("is not UTF-8 text", place=f"{origin} line {line}", hint=hint) from error
