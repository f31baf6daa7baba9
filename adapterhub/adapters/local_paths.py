"""Paths of this machine in the documents of an artifact, which must not leave it.

Values of keys that name files are local if they are absolute or leave the working folder. In
running text, only folders of users are recognized: labels and prompts may begin with a slash.
"""

from __future__ import annotations

import re
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import parse_object
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from adapterhub.adapters.manifest import Manifest

#: A drive, a share, a home folder or a root, as the beginning of a value.
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*[\\/]|/|file:)")
#: Path of a value that names a file or a folder.
_PATH_KEY = re.compile(
    r"(?:.*[._])?(?:path|folder|file|dir|origin)|(?:.*\.)?(?:backbone\.name|data\.\w+)"
)
#: Folders of users in running text; the rest of the path belongs to them.
_IN_TEXT = re.compile(
    r"(?<![\w./~-])(?:/(?:home|Users)/[\w.-]+|/root|[A-Za-z]:\\+Users\\+[\w.-]+)"
    r"[\\/][^\s\"'`<>|)\]},;]*"
)
_TEXT_SUFFIXES = (".md", ".json", ".txt", ".yaml", ".yml")
#: Largest text file that is searched, in bytes.
_MAX_TEXT = 16 * 1024 * 1024


def is_local_path(text: str) -> bool:
    """Return whether a value is a path that only means something on one machine."""
    return bool(_ABSOLUTE.match(text)) or ".." in re.split(r"[\\/]", text)


def file_name(path: str) -> str:
    """Return the last part of a path of any system."""
    return PureWindowsPath(path).name


def without_local_paths(document: Any, replaced: Mapping[str, str] | None = None) -> Any:
    """Return a JSON document with the file name in place of each local path.

    Args:
        document: Object, list or value.
        replaced: Text to what stands in its place instead, such as a fingerprint.
    """
    return _cleaned(document, "", replaced or {})


def local_paths_in(document: Any) -> Iterator[tuple[str, str]]:
    """Yield key path and value of each local path in a JSON document."""
    for place, value in _texts(document, ""):
        if _is_local(place, value):
            yield place, value


def require_portable(folder: Path, ref: str) -> None:
    """Check that no text file of an artifact names a path of the machine that made it.

    Raises:
        ArtifactError: Naming file, key and path.
    """
    for place, path in _found(folder):
        raise ArtifactError(
            f"holds the local path {path[:200]!r}, which would be published",
            place=f"{ref}: {place}",
            hint=f"Store it without local paths: adapterhub clean {ref}",
        )


def replacements(manifest: Manifest, config: Mapping[str, Any]) -> dict[str, str]:
    """Return each local path in manifest and configuration with what can stand in its place."""
    backbone = manifest.backbone
    found = {path: file_name(path) for _, path in local_paths_in({"recipe": manifest.recipe})}
    found |= {path: file_name(path) for _, path in local_paths_in(config)}
    if backbone.hub_id is None and is_local_path(backbone.name):
        found[backbone.name] = backbone.fingerprint
    return found


def clean_text(text: str, replaced: Mapping[str, str]) -> str:
    """Return a text without the paths of ``replaced``, and without folders of users."""
    for path in sorted(replaced, key=len, reverse=True):
        text = text.replace(path, replaced[path])
    return _IN_TEXT.sub(lambda match: file_name(match[0]) or "…", text)


def is_text_file(path: Path) -> bool:
    """Return whether a file of an artifact is read as text."""
    return path.suffix.lower() in _TEXT_SUFFIXES and path.stat().st_size <= _MAX_TEXT


def _found(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        if not is_text_file(path):
            continue
        content = path.read_bytes()
        if path.suffix.lower() == ".json":
            document = parse_object(content, path.name, limit=_MAX_TEXT)
            for key, value in local_paths_in(document):
                yield f"{path.name}: {key}", value
        for match in _IN_TEXT.finditer(content.decode("utf-8", "replace")):
            yield path.name, match[0]


def _is_local(place: str, value: str) -> bool:
    return bool(_PATH_KEY.fullmatch(place)) and is_local_path(value)


def _cleaned(value: Any, place: str, replaced: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(each, _at(place, key), replaced) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each, place, replaced) for each in value]
    if not isinstance(value, str):
        return value
    if value in replaced:
        return replaced[value]
    return file_name(value) if _is_local(place, value) else clean_text(value, {})


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, place)
    elif hasattr(value, "items"):
        for key, each in value.items():
            yield from _texts(each, _at(place, str(key)))


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
