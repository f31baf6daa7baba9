"""``export.json``: what an export says of its version beside the artifact and its signatures."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.adapters import strict_json as strict
from adapterhub.errors import ArtifactError
from adapterhub.refs import check_name, check_tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.registry.version import Version

EXPORT_NAME = "export.json"
FORMAT = 1
#: Largest ``export.json``, in bytes.
MAX_DOCUMENT = 1024 * 1024
#: Where an export has the files of the artifact, and where its signatures.
ARTIFACT_FOLDER = "artifact"
SIGNATURES_FOLDER = "signatures"

#: Deepest nesting of what is kept beside a version.
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What ``export.json`` says of the version beside it.

    Args:
        format: of the export.
        name: that the version had.
        version: its number.
        digest: of its artifact.
        created: when, ISO 8601 in UTC.
        tags: of the version.
        info: JSON values kept beside the version.
    """

    format: int
    name: str
    version: int
    digest: str
    created: str
    tags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


def document_of(version: Version) -> bytes:
    """Return the bytes of ``export.json`` for a version."""
    document = {
        "format": FORMAT,
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "created": version.created,
        "tags": list(version.tags),
        "info": dict(version.info),
    }
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def read_document(content: bytes, place: str) -> Document:
    """Read the bytes of an ``export.json``.

    Raises:
        ArtifactError: when it is too large, of another format, or malformed.
        RefError: when the name or a tag is malformed.
    """
    place = f"{place}: {EXPORT_NAME}"
    if len(content) > MAX_DOCUMENT:
        raise ArtifactError(f"is larger than {MAX_DOCUMENT} bytes", place=place)
    found = strict.parse_object(content, place)
    if found.get("format") != FORMAT:
        raise ArtifactError(
            f"has the format {found.get('format')!r}, this adapterhub reads {FORMAT}",
            place=place,
            hint="Upgrade adapterhub to import it",
        )
    document = _DOCUMENT(found, place)
    check_name(document.name)
    for tag in document.tags:
        check_tag(tag)
    for tag, count in Counter(document.tags).items():
        if count > 1:
            raise ArtifactError(f"has the tag {tag!r} twice", place=place)
    return document


def _shallow(value: Any, place: str) -> dict[str, Any]:
    """Read an object that is not nested so deep that it can't be shown."""
    level: list[Any] = [strict.mapping(value, place)]
    for _ in range(_MAX_DEPTH):
        inner = [x.values() if isinstance(x, dict) else x for x in level]
        level = [x for items in inner for x in items if isinstance(x, dict | list)]
    if level:
        raise ArtifactError(f"is nested deeper than {_MAX_DEPTH}", place=place)
    return dict(value)


_DOCUMENT = strict.record(
    Document,
    {
        "format": strict.count,
        "name": strict.text,
        "version": strict.count,
        "digest": strict.matching(
            re.compile(r"sha256:[0-9a-f]{64}"), "'sha256:' and 64 hex digits"
        ),
        "created": strict.text,
        "tags": strict.texts,
        "info": _shallow,
    },
)
