"""``refresh.json`` in an artifact: from what, on what and why it was refreshed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.adapters import strict_json as strict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REFRESH_NAME = "refresh.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """A file of rows that a refresh added.

    Args:
        path: as given; a relative one starts from the working directory.
        fingerprint: digest over its rows.
        rows: number of rows.
        fields: task field to column name, where they differ.
    """

    path: str
    fingerprint: str
    rows: int
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshDocument:
    """What the next refresh has to know, and what people want to.

    Args:
        parent: digest of the adapter that was refreshed.
        root: split name to the fingerprint of the rows that the first ancestor's recipe names.
        added: files of this refresh and of those before it, the oldest first.
        replay: share of the old training rows that were learned again.
        findings: drift, metrics before and after; plain JSON.
        request: digest of what was asked for, see ``request_digest``; empty where an older
            version did not keep it.
    """

    parent: str
    root: Mapping[str, str]
    added: tuple[AddedFile, ...]
    replay: float
    findings: Mapping[str, Any]
    request: str = ""

    def to_bytes(self) -> bytes:
        """Return the file's content; a number that JSON can't hold is null."""
        text = json.dumps(_finite(asdict(self)), indent=2, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode()


def request_digest(parent: str, rows: str, replay: float, overrides: Sequence[str]) -> str:
    """Return what tells one refresh from another: two that agree in it make the same child.

    Args:
        parent: digest of the adapter that is refreshed.
        rows: fingerprint of the new rows.
        replay: share of the old training rows.
        overrides: ``key.path=value`` each, without those that only say where old rows are.
    """
    text = json.dumps([parent, rows, replay, sorted(overrides)])
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def read_document(folder: Path) -> RefreshDocument | None:
    """Return what an artifact's folder tells of its refresh; ``None`` where there was none.

    Raises:
        ArtifactError: when it is malformed.
    """
    path = folder / REFRESH_NAME
    if not path.is_file():
        return None
    stored = {"request": "", **strict.parse_object(path.read_bytes(), REFRESH_NAME)}
    document: RefreshDocument = _DOCUMENT(stored, REFRESH_NAME)
    return document


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _added(value: Any, place: str) -> tuple[AddedFile, ...]:
    files: Mapping[str, AddedFile] = strict.map_of(_ADDED)(
        {str(index): each for index, each in enumerate(value)}, place
    )
    return tuple(files.values())


_ADDED = strict.record(
    AddedFile,
    {
        "path": strict.text,
        "fingerprint": strict.text,
        "rows": strict.count,
        "fields": strict.map_of(strict.text),
    },
)
_DOCUMENT = strict.record(
    RefreshDocument,
    {
        "parent": strict.text,
        "root": strict.map_of(strict.text),
        "added": _added,
        "replay": strict.number,
        "findings": strict.mapping,
        "request": strict.text,
    },
)
