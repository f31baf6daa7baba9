"""Files of examples, images or recordings, read into memory undecoded and bounded in size."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from adapterhub.data.files import check_size
from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adapterhub.data.dataset import Dataset

#: Largest file of one image or recording, in bytes.
MAX_FILE_BYTES = 32 * 1024**2
#: Returns the bytes of a named file, at most one more than allowed.
_Store: TypeAlias = "Callable[[str], bytes]"
_READ_FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class MediaFile(ABC):
    """A file, not decoded; ``name`` is used in messages and predictions."""

    #: what the file holds, in messages
    noun: ClassVar[str]
    name: str
    content: bytes = field(repr=False)

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return sha256(self.content).hexdigest()


MediaT = TypeVar("MediaT", bound=MediaFile)


def read_media(path: Path, kind: type[MediaT]) -> MediaT:
    """Return the image or recording in a file named by the user.

    Raises:
        DataError: when there is no such file, or it is too large.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"can't be read: {reason}", place=str(path)) from error
    _check_bytes(len(content), str(path), kind)
    return kind(str(path), content)


def load_media(
    dataset: Dataset, column: str, beside: Path | None, kind: type[MediaFile]
) -> Dataset:
    """Return the examples with images or recordings in place of their names.

    Names are files in the folder of the data file or in a zip file of the same name
    (``train.zip`` beside ``train.jsonl``). Examples that contain the bytes of their file, as
    those of the Hub and of Parquet files, need none.

    Args:
        dataset: Examples by the task's field names.
        column: Field of the file.
        beside: Data file; ``None`` where the examples are from no file.
        kind: Class of the files.

    Raises:
        DataError: naming the example whose file is missing, too large, or outside the folder.
    """
    found: list[dict[str, Any]] = []
    total = 0
    with ExitStack() as open_files:
        store: _Store | None = None
        for index, example in enumerate(dataset.examples):
            place = f"{dataset.place(index)}, field {column!r}"
            value = example[column]
            if isinstance(value, str):
                store = store or _store_beside(beside, place, open_files, kind)
                name = _plain_name(value, place, kind)
                file = kind(value, store(name))
            else:
                file = _embedded(value, place, kind)
            _check_bytes(len(file.content), place, kind)
            total += len(file.content)
            check_size(total, f"all {kind.noun}s of {dataset.name}")
            found.append({**example, column: file})
    return replace(dataset, examples=tuple(found))


def _store_beside(
    beside: Path | None, place: str, open_files: ExitStack, kind: type[MediaFile]
) -> _Store:
    if beside is None:
        problem = f"names {_a(kind)}, but the examples come from no folder"
        raise DataError(problem, place=place)
    archive = beside.with_name(f"{beside.name.partition('.')[0]}.zip")
    if not archive.is_file():
        return partial(_read_from_folder, beside.parent.resolve(), kind.noun)
    try:
        opened = open_files.enter_context(zipfile.ZipFile(archive))
    except _READ_FAULTS as error:
        raise DataError(f"can't be read: {error}", place=archive.name) from error
    return partial(_read_from_archive, opened, archive.name, kind.noun)


def _read_from_folder(folder: Path, noun: str, name: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise DataError("is a link that leads out of the folder", place=name)
    if not path.is_file():
        there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, there)
        raise DataError(f"there is no such {noun}", place=name, hint=hint)
    with path.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def _read_from_archive(archive: zipfile.ZipFile, origin: str, noun: str, name: str) -> bytes:
    place = f"{origin}: {name}"
    try:
        # the sizes in the directory of a zip file may be wrong
        with archive.open(name) as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except KeyError:
        hint = did_you_mean(name, archive.namelist())
        raise DataError(f"there is no such {noun}", place=place, hint=hint) from None
    except _READ_FAULTS as error:
        raise DataError(f"can't be read: {error}", place=place) from error


def _plain_name(name: str, place: str, kind: type[MediaFile]) -> str:
    """Reject names that lead out of the folder of the examples."""
    path = PurePosixPath(name)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts
    if not plain or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise DataError(
            f"{name!r:.100} is not a path below the folder of the examples",
            place=place,
            hint=f"Name {kind.noun}s as sub/folder/name, relative to the file of examples",
        )
    return name


def _embedded(value: Any, place: str, kind: type[MediaFile]) -> MediaFile:
    if isinstance(value, kind):
        return value
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes):
        raise DataError(
            f"must name {_a(kind)}, or hold its bytes, not {type(value).__name__}", place=place
        )
    return kind(_name_of(value, content), content)


def _name_of(value: Mapping[str, Any], content: bytes) -> str:
    name = value.get("path")
    return name if isinstance(name, str) and name else sha256(content).hexdigest()[:12]


def _check_bytes(size: int, place: str, kind: type[MediaFile]) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(
            f"is larger than the limit of {MAX_FILE_BYTES / 1024**2:.3g} MiB per {kind.noun}",
            place=place,
        )


def _a(kind: type[MediaFile]) -> str:
    """Return the noun of a kind of file with its article."""
    return f"{'an' if kind.noun[0] in 'aeiou' else 'a'} {kind.noun}"
