"""``refresh.json`` in an artifact: parent, data and findings of a refresh."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from adapterhub.adapters.artifact import write_annotated
from adapterhub.adapters.strict_json import STRICT, Schema, canonical_json, finite, read_object

REFRESH_NAME = "refresh.json"
#: Folder of the child's artifact, beside the artifact that training wrote.
CHILD_NAME = "child"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """A file of examples that a refresh added; its folder stays in the registry's index."""

    path: str
    fingerprint: str
    num_examples: Annotated[int, Field(ge=0, alias="rows")]
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshDocument:
    """Lineage of a refreshed adapter, which the next refresh builds on.

    Args:
        parent: Digest of the adapter that was refreshed.
        root: Fingerprint of each split of the first ancestor's recipe.
        added: Files of this refresh and of earlier ones, the oldest first.
        replay: Share of the old training examples in the child's training data.
        findings: Drift and metrics before and after, as plain JSON.
        request: Digest of the request, see ``request_digest``; empty in documents of older
            versions.
    """

    parent: str
    root: Mapping[str, str]
    added: tuple[AddedFile, ...]
    replay: float
    findings: Mapping[str, Any]
    request: str = ""

    __pydantic_config__ = STRICT

    def to_bytes(self) -> bytes:
        """Return the content of the file; a number that JSON can't hold is null."""
        return canonical_json(finite(_SCHEMA.dump(self)), REFRESH_NAME)


_SCHEMA = Schema(RefreshDocument)


def request_digest(parent: str, examples: str, replay: float, overrides: Sequence[str]) -> str:
    """Return the digest of a refresh; refreshes with equal digests give the same child.

    Overrides that only locate old files do not belong into it.
    """
    text = json.dumps([parent, examples, replay, sorted(overrides)])
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def read_document(folder: Path) -> RefreshDocument | None:
    """Return the refresh document of an artifact folder; ``None`` without one."""
    path = folder / REFRESH_NAME
    if not path.is_file():
        return None
    stored = {"request": "", **read_object(path, REFRESH_NAME)}
    return _SCHEMA.read(stored, REFRESH_NAME)


def write_child(source: Path, document: RefreshDocument, parent: str) -> Path:
    """Write the child's artifact beside the one that training wrote, and return its folder.

    An existing one is of this same refresh, and is replaced.
    """
    target = source.parent / CHILD_NAME
    write_annotated(
        source,
        target,
        files={REFRESH_NAME: document.to_bytes()},
        section=_card_section(document, parent),
        parent=document.parent,
    )
    return target


def _card_section(document: RefreshDocument, parent: str) -> str:
    found = document.findings
    metric = found["present"]["metric"]
    lines = []
    for name, what in (
        ("forgetting", f"old {found['split']} examples"),
        ("gain", "new examples, held out"),
    ):
        each = found[name].get(metric)
        if each:
            spread = each["interval"]
            lines.append(
                f"| {what} | {each['first']:.4f} | {each['second']:.4f} | "
                f"{each['difference']:+.4f} ({spread['low']:+.4f} … {spread['high']:+.4f}) |"
            )
    table = "\n".join(lines)
    drifted = ", ".join(t["what"] for t in found["drift"]["tests"] if t["drift"]) or "none"
    return (
        f"## Refresh\n\nContinued from `{parent}` (`{document.parent}`) with "
        f"{document.added[-1].num_examples} new examples and {document.replay:.0%} of the old "
        f"training examples. Drift: {drifted}. All findings are in `{REFRESH_NAME}`.\n\n"
        f"| {metric} on | parent | this version | difference |\n|---|---|---|---|\n{table}\n"
    )
