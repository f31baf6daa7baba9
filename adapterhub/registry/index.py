"""The queries of the index, over a connection that ``Database`` lends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from adapterhub.errors import NotFoundError, RegistryError, near
from adapterhub.refs import LATEST, AdapterRef
from adapterhub.registry.version import Version

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from adapterhub.registry.intake import StagedArtifact

_SELECT = """
    SELECT v.name, v.version, v.digest, v.created, a.task, a.backbone, a.fingerprint, a.method,
           a.metrics, a.size, a.parent, v.info
    FROM versions v JOIN artifacts a ON a.digest = v.digest
"""
#: Most names that are compared with one that was not found.
_NEAR_NAMES = 500
#: Most version numbers that a message lists.
_SHOWN_VERSIONS = 12


def resolve(db: sqlite3.Connection, ref: AdapterRef) -> Version:
    """Return the version that ``ref`` names.

    Raises:
        NotFoundError: with near names or the versions that there are.
        RegistryError: when the first digits of a digest fit several versions.
    """
    if ref.version is not None:
        found = _select(db, "WHERE v.name = ? AND v.version = ?", (ref.name, ref.version))
    elif ref.digest is not None:
        # hex digits sort before 'g', so this range holds all digests with the prefix
        where = "WHERE v.name = ? AND v.digest >= ? AND v.digest < ? ORDER BY v.version"
        found = _select(db, where, (ref.name, ref.digest, f"{ref.digest}g"))
    elif ref.alias in (None, LATEST):
        found = _select(db, "WHERE v.name = ? ORDER BY v.version DESC LIMIT 1", (ref.name,))
    else:
        found = ()
    if not found:
        raise _not_found(db, ref)
    if len(found) > 1:
        raise RegistryError(
            f"{len(found)} versions have a digest that begins so",
            place=str(ref),
            hint=f"Give more digits, or one of {', '.join(str(v.ref) for v in found[:4])}",
        )
    return found[0]


def versions_of(db: sqlite3.Connection, name: str) -> tuple[Version, ...]:
    """Return the versions of one name, the oldest first; none where the name is unknown."""
    return _select(db, "WHERE v.name = ? ORDER BY v.version", (name,))


def find(
    db: sqlite3.Connection, *, prefix: str | None, task: str | None, backbone: str | None
) -> tuple[Version, ...]:
    """Return the versions that fit every filter given, by name and then number."""
    filters: list[tuple[str, str | None]] = [
        ("v.name >= ?", prefix),
        # '~' sorts after every character of a name
        ("v.name < ?", None if prefix is None else f"{prefix}~"),
        ("a.task = ?", task),
        ("a.backbone = ?", backbone),
    ]
    given = [(clause, value) for clause, value in filters if value is not None]
    where = f"WHERE {' AND '.join(clause for clause, _ in given)}" if given else ""
    return _select(db, f"{where} ORDER BY v.name, v.version", [value for _, value in given])


def registered(db: sqlite3.Connection, name: str, digest: str) -> Version | None:
    """Return the version of ``name`` that has this digest, if there is one."""
    found = _select(db, "WHERE v.name = ? AND v.digest = ?", (name, digest))
    return found[0] if found else None


def add(db: sqlite3.Connection, name: str, staged: StagedArtifact, info: str) -> Version:
    """Register an artifact as the next version of ``name``.

    Args:
        db: a connection that holds the write lock.
        name: a well-formed name.
        staged: the artifact; ``name`` has no version with its digest yet.
        info: JSON text of an object.
    """
    _add_artifact(db, staged)
    db.execute("INSERT OR IGNORE INTO names (name, last_version) VALUES (?, 0)", (name,))
    db.execute("UPDATE names SET last_version = last_version + 1 WHERE name = ?", (name,))
    db.execute(
        "INSERT INTO versions (name, version, digest, created, info) "
        "SELECT name, last_version, ?, ?, ? FROM names WHERE name = ?",
        (staged.digest, _now(), info, name),
    )
    return _select(db, "WHERE v.name = ? AND v.digest = ?", (name, staged.digest))[0]


def delete(db: sqlite3.Connection, version: Version) -> tuple[str, ...]:
    """Delete a version, and its artifact where no other version has it.

    Returns:
        The digests, in hex, of the artifact's blobs; none where it is still in use.
    """
    db.execute(
        "DELETE FROM versions WHERE name = ? AND version = ?", (version.name, version.version)
    )
    in_use = db.execute("SELECT 1 FROM versions WHERE digest = ?", (version.digest,)).fetchone()
    if in_use:
        return ()
    rows = db.execute("SELECT sha256 FROM artifact_files WHERE digest = ?", (version.digest,))
    blobs = tuple(row["sha256"] for row in rows)
    db.execute("DELETE FROM artifacts WHERE digest = ?", (version.digest,))
    return blobs


def uses_blob(db: sqlite3.Connection, sha256: str) -> bool:
    """Return whether an artifact has a file with these bytes."""
    query = "SELECT 1 FROM artifact_files WHERE sha256 = ? LIMIT 1"
    return db.execute(query, (sha256,)).fetchone() is not None


def has_artifact(db: sqlite3.Connection, digest: str) -> bool:
    """Return whether a version has this digest."""
    query = "SELECT 1 FROM artifacts WHERE digest = ?"
    return db.execute(query, (digest,)).fetchone() is not None


def artifacts(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return every artifact's digest and the versions that have it."""
    owners: dict[str, list[str]] = {
        row["digest"]: [] for row in db.execute("SELECT digest FROM artifacts ORDER BY digest")
    }
    rows = db.execute("SELECT name, version, digest FROM versions ORDER BY name, version")
    for row in rows:
        owners.setdefault(row["digest"], []).append(f"{row['name']}@{row['version']}")
    return {digest: tuple(refs) for digest, refs in owners.items()}


def _add_artifact(db: sqlite3.Connection, staged: StagedArtifact) -> None:
    if has_artifact(db, staged.digest):
        return
    manifest = staged.manifest
    metrics = {"before": dict(manifest.metrics.before), "after": dict(manifest.metrics.after)}
    row = (
        staged.digest,
        manifest.task,
        manifest.backbone.name,
        manifest.backbone.fingerprint,
        manifest.adapter.method,
        json.dumps(metrics, sort_keys=True),
        staged.size,
        manifest.parent,
    )
    db.execute(
        "INSERT INTO artifacts (digest, task, backbone, fingerprint, method, metrics, size, "
        "parent) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    db.executemany(
        "INSERT INTO artifact_files (digest, file, sha256, size) VALUES (?, ?, ?, ?)",
        [(staged.digest, name, file.sha256, file.size) for name, file in staged.files.items()],
    )


def _select(
    db: sqlite3.Connection, clauses: str, values: Iterable[str | int]
) -> tuple[Version, ...]:
    return tuple(_version(row) for row in db.execute(_SELECT + clauses, tuple(values)))


def _version(row: sqlite3.Row) -> Version:
    fields = dict(row)
    return Version(
        **{**fields, "metrics": json.loads(row["metrics"]), "info": json.loads(row["info"])}
    )


def _not_found(db: sqlite3.Connection, ref: AdapterRef) -> NotFoundError:
    query = "SELECT last_version FROM names WHERE name = ?"
    known = db.execute(query, (ref.name,)).fetchone()
    if known is None:
        return NotFoundError(
            "the registry has no adapter of this name", place=str(ref), hint=_near(db, ref.name)
        )
    numbers = [version.version for version in versions_of(db, ref.name)]
    if not numbers:
        return NotFoundError("all its versions were removed", place=str(ref))
    if ref.version is not None:
        removed = ref.version <= known["last_version"]
        problem = "this version was removed" if removed else "there is no such version"
    elif ref.digest is not None:
        problem = "no version has this digest"
    else:
        problem = f"there is no alias {ref.alias!r}"
    return NotFoundError(problem, place=str(ref), hint=_listed(numbers))


def _near(db: sqlite3.Connection, name: str) -> str:
    # of a large registry only names that begin alike are compared
    rows = db.execute(
        "SELECT DISTINCT name FROM versions ORDER BY substr(name, 1, 2) = ? DESC, "
        "substr(name, 1, 1) = ? DESC, name LIMIT ?",
        (name[:2], name[:1], _NEAR_NAMES),
    )
    return near(name, [row["name"] for row in rows]) or "The registry is empty"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[-_SHOWN_VERSIONS:]))
    return f"It has {'…, ' if len(numbers) > _SHOWN_VERSIONS else ''}{shown}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
