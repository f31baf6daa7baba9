"""``refresh.json`` in an artifact: from what, on what and why it was refreshed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from adapterhub.adapters.strict_json import STRICT, Schema, canonical_json, parse_object

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
    num_examples: Annotated[int, Field(ge=0, alias="rows")]
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

    __pydantic_config__ = STRICT

    def to_bytes(self) -> bytes:
        """Return the file's content; a number that JSON can't hold is null."""
        return canonical_json(_finite(_SCHEMA.dump(self)), REFRESH_NAME)


_SCHEMA = Schema(RefreshDocument)


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
    stored = {"request": "", **parse_object(path.read_bytes(), REFRESH_NAME)}
    return _SCHEMA.read(stored, REFRESH_NAME)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
