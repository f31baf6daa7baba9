"""Files behind the path of a recipe: patterns, folders and members of archives."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

from adapterhub.data.arrow import is_saved_dataset
from adapterhub.data.dataset import FileFormat
from adapterhub.data.files import DataFile, find_file
from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.dataset import FileSource

SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".txt": "conll",
    ".bio": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
    ".xml": "voc",
}
#: Suffix of the files of a folder of texts by label.
_TEXT_SUFFIX = ".txt"


def expand(source: FileSource, base_dir: Path) -> list[FileSource]:
    """Return a source for each file that a pattern such as ``parts/*.jsonl`` matches, by name.

    A path without ``*``, ``?`` and ``[``, or of an existing file, stays as it is.

    Raises:
        DataError: when no file matches.
    """
    path = base_dir / Path(source.path).expanduser()
    try:
        if not has_magic(source.path) or path.exists():
            return [source]
        found = sorted(glob(str(path), recursive=True))
    except (OSError, ValueError) as error:
        raise DataError(f"can't be read: {error}", place=source.path) from error
    if not found:
        raise DataError("no file matches the pattern", place=source.path)
    return [replace(source, path=each) for each in found]


def data_files(path: Path, origin: str) -> list[DataFile]:
    """Return the file of a path, or the members of a zip archive that are data files.

    Raises:
        DataError: when there is no such file, or no data file in the archive.
    """
    find_file(path, origin)
    if path.suffix.lower() != ".zip":
        return [DataFile(path, origin)]
    names = _member_names(path, origin)
    found = [DataFile(path, f"{origin}: {name}", name) for name in names]
    known = [file for file in found if file.suffix in SUFFIXES]
    if not known:
        shown = ", ".join(names[:5]) or "(none)"
        raise DataError(
            f"the archive has no file of a known format; members: {shown}",
            place=origin,
            hint=f"Known suffixes: {', '.join(SUFFIXES)}. For an archive of images or recordings, "
            "name the file that lists them",
        )
    return known


def text_files(path: Path, origin: str) -> list[tuple[str, DataFile]]:
    """Return the label and file of each text in a folder, or archive, with a folder per label.

    The label is the name of the folder that holds the text.
    """
    if path.suffix.lower() == ".zip":
        members = [DataFile(path, f"{origin}: {n}", n) for n in _member_names(path, origin)]
        placed = [(PurePosixPath(file.member), file) for file in members]
        return [
            (name.parent.name, file)
            for name, file in placed
            if name.suffix.lower() == _TEXT_SUFFIX and name.parent.name
        ]
    files = sorted(each for each in path.glob(f"*/*{_TEXT_SUFFIX}") if each.is_file())
    return [
        (each.parent.name, DataFile(each, f"{origin}/{each.parent.name}/{each.name}"))
        for each in files
    ]


def is_text_folder(path: Path) -> bool:
    """Return whether a folder holds nothing but folders of texts, as two labels at least."""
    if not path.is_dir():
        return False
    inner = [each for each in path.iterdir() if not each.name.startswith(".")]
    return len(inner) > 1 and all(
        each.is_dir() and any(each.glob(f"*{_TEXT_SUFFIX}")) for each in inner
    )


def format_of(source: FileSource, file: DataFile) -> FileFormat:
    """Return the format of a file: the given one, or that of its suffix.

    Raises:
        DataError: when there is no such format, or none can be derived.
    """
    known = get_args(FileFormat)
    if source.format in known:
        return source.format  # type: ignore[return-value]  # not "auto"
    if source.format != "auto":
        raise DataError(
            f"there is no format {source.format!r}",
            place=source.path,
            hint=did_you_mean(source.format, known),
        )
    kind = SUFFIXES.get(file.suffix)
    if kind is None:
        raise DataError(
            "the format can't be derived from the suffix",
            place=file.origin,
            hint=f"Set data.format to one of {', '.join(known)}, or rename the file",
        )
    return kind


def saved_folder(path: Path) -> FileFormat | None:
    """Return the format of a folder that is one data set; ``None`` for any other path."""
    if is_saved_dataset(path):
        return "arrow"
    return "text" if is_text_folder(path) else None


def _member_names(path: Path, origin: str) -> Sequence[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each.filename for each in archive.infolist() if not each.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise DataError(f"can't be read: {error}", place=origin) from error
    # what macOS adds to archives
    return sorted(n for n in names if not n.startswith("__MACOSX") and "/." not in f"/{n}")
