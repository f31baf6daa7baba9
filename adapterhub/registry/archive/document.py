"""``export.json``: name, tags and digest of an exported version."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapterhub.adapters.local_paths import without_local_paths
from adapterhub.adapters.strict_json import (
    STRICT,
    Count,
    Digest,
    Schema,
    canonical_json,
    parse_object,
)
from adapterhub.errors import ArtifactError
from adapterhub.refs import check_name, check_tag
from adapterhub.registry.version import LOCAL_KEY, Version

EXPORT_NAME = "export.json"
FORMAT = 1
#: Largest size of ``export.json``, in bytes.
MAX_DOCUMENT = 1024 * 1024
#: Folders of an export with the files of the artifact and with its signatures.
ARTIFACT_FOLDER = "artifact"
SIGNATURES_FOLDER = "signatures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Content of ``export.json``."""

    format: int
    name: str
    version: Count
    digest: Digest
    created: str
    tags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__ = STRICT


_SCHEMA = Schema(Document)


def document_of(version: Version) -> bytes:
    """Serialize the ``export.json`` of a version."""
    document = Document(
        format=FORMAT,
        name=version.name,
        version=version.version,
        digest=version.digest,
        created=version.created,
        tags=version.tags,
        # what only means something on this machine is left out
        info=without_local_paths({k: v for k, v in version.info.items() if k != LOCAL_KEY}),
    )
    return canonical_json(_SCHEMA.dump(document), EXPORT_NAME)


def read_document(content: bytes, place: str) -> Document:
    """Parse an ``export.json``."""
    place = f"{place}: {EXPORT_NAME}"
    found = parse_object(content, place, limit=MAX_DOCUMENT)
    if found.get("format") != FORMAT:
        raise ArtifactError(
            f"has the format {found.get('format')!r}, this adapterhub reads {FORMAT}",
            place=place,
            hint="Upgrade adapterhub to import it",
        )
    document = _SCHEMA.read(found, place)
    check_name(document.name)
    for tag in document.tags:
        check_tag(tag)
    for tag, count in Counter(document.tags).items():
        if count > 1:
            raise ArtifactError(f"has the tag {tag!r} twice", place=place)
    return document
