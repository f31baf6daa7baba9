"""Verification of everything that is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import ArtifactError
from adapterhub.registry import index, signatures
from adapterhub.registry.blobs import file_fault
from adapterhub.registry.checkouts import Fault
from adapterhub.registry.sigstore import signature_name
from adapterhub.registry.version import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Database
    from adapterhub.registry.signatures import StoredSignature


def find_problems(database: Database, blobs: Blobs) -> tuple[Problem, ...]:
    """Return the damage of the index or, if it is intact, of the files of every version.

    Signatures are included; versions that are removed during the check are left out.
    """
    damage = database.damage()
    if damage:
        return tuple(Problem((), database.path.name, f"is damaged: {text}") for text in damage)
    with database.reading() as db:
        owners = index.artifacts(db)
        signed = signatures.all_signatures(db)
    problems: list[Problem] = []
    # each blob is read once, although artifacts share them
    checked: dict[str, str] = {}
    for digest, refs in owners.items():
        found = [Problem(refs, *fault) for fault in _artifact_faults(digest, blobs, checked)]
        if found and _still_there(database, digest):
            problems += found
        for stored in signed.get(digest, ()):
            problem = file_fault(blobs.path(stored.sha256), stored.sha256)
            if problem and _still_signed(database, digest, stored):
                problems.append(Problem(refs, signature_name(stored.key), problem))
    return tuple(problems)


def _artifact_faults(digest: str, blobs: Blobs, checked: dict[str, str]) -> Iterator[Fault]:
    manifest = blobs.path(digest.removeprefix("sha256:"))
    if problem := file_fault(manifest, manifest.name):
        yield Fault(MANIFEST_NAME, problem)
        return
    try:
        files = Manifest.from_json(manifest.read_bytes()).files
    except FileNotFoundError:
        yield Fault(MANIFEST_NAME, "is missing")
        return
    except ArtifactError as error:
        yield Fault(MANIFEST_NAME, f"cannot be parsed: {error}")
        return
    for name, entry in files.items():
        if entry.sha256 not in checked:
            checked[entry.sha256] = file_fault(blobs.path(entry.sha256), entry.sha256)
        if checked[entry.sha256]:
            yield Fault(name, checked[entry.sha256])


def _still_there(database: Database, digest: str) -> bool:
    with database.reading() as db:
        return index.has_artifact(db, digest)


def _still_signed(database: Database, digest: str, stored: StoredSignature) -> bool:
    with database.reading() as db:
        return stored in signatures.signatures_of(db, digest)
