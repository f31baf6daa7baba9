"""Queries of the index."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import read_stored
from adapterhub.errors import NotFoundError, RegistryError, did_you_mean
from adapterhub.refs import DEFAULT_ALIAS, LATEST, TRIAL_TAG, AdapterRef, check_tag
from adapterhub.registry.version import Version

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.registry.staging import StagedArtifact

SELECT = """
    SELECT v.name, v.version, v.digest, v.created, a.task, a.backbone, a.fingerprint, a.method,
           a.rank, a.labels, a.metrics, a.size, a.parent, a.data, a.recipe, v.info,
           (SELECT json_group_array(tag) FROM tags t
            WHERE t.name = v.name AND t.version = v.version) AS tags,
           (SELECT json_group_array(alias) FROM aliases s
            WHERE s.name = v.name AND s.version = v.version) AS aliases
    FROM versions v JOIN artifacts a ON a.digest = v.digest
"""
#: Largest number of names that are compared with an unknown one.
_NEAR_NAMES = 500
#: Largest number of versions that an error message lists.
_SHOWN_VERSIONS = 12
_WORD = re.compile(r"[^\W_]+")


def resolve(db: sqlite3.Connection, ref: AdapterRef) -> Version:
    """Return the version of a reference."""
    if ref.version is not None:
        found = select(db, "WHERE v.name = ? AND v.version = ?", (ref.name, ref.version))
    elif ref.digest is not None:
        # hex digits sort before 'g', so this range contains all digests with the prefix
        where = "WHERE v.name = ? AND v.digest >= ? AND v.digest < ? ORDER BY v.version"
        found = select(db, where, (ref.name, ref.digest, f"{ref.digest}g"))
    elif ref.alias is None:
        found = _default_version(db, ref.name)
    elif ref.alias == LATEST:
        found = select(db, "WHERE v.name = ? ORDER BY v.version DESC LIMIT 1", (ref.name,))
    else:
        where = (
            "JOIN aliases x ON x.name = v.name AND x.version = v.version "
            "WHERE x.name = ? AND x.alias = ?"
        )
        found = select(db, where, (ref.name, str(ref.alias)))
    if not found:
        raise _not_found(db, ref)
    if len(found) > 1:
        raise RegistryError(
            f"{len(found)} versions have a digest that begins like this",
            place=str(ref),
            hint=f"Give more digits, or one of {', '.join(str(v.ref) for v in found[:4])}",
        )
    return found[0]


def _default_version(db: sqlite3.Connection, name: str) -> tuple[Version, ...]:
    """Return the version that a name alone refers to; none if the name is unknown.

    It is the version of the alias ``prod``; without that alias the newest one that has no tag
    ``trial``; an only version in any case.
    """
    served = select(
        db,
        "JOIN aliases x ON x.name = v.name AND x.version = v.version "
        "WHERE x.name = ? AND x.alias = ?",
        (name, DEFAULT_ALIAS),
    )
    kept = served or select(
        db,
        "WHERE v.name = ? AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.name = v.name "
        "AND t.version = v.version AND t.tag = ?) ORDER BY v.version DESC LIMIT 1",
        (name, TRIAL_TAG),
    )
    if kept:
        return kept
    trials = select(db, "WHERE v.name = ? ORDER BY v.version DESC LIMIT 2", (name,))
    if len(trials) > 1:
        raise NotFoundError(
            "has several versions, all of them trials",
            place=name,
            hint=f"Name one, such as {trials[0].ref}, or set {name}@{DEFAULT_ALIAS}",
        )
    return trials


def versions_of(db: sqlite3.Connection, name: str) -> tuple[Version, ...]:
    """Return the versions of a name, the oldest first; none if the name is unknown."""
    return select(db, "WHERE v.name = ? ORDER BY v.version", (name,))


def last_numbers(db: sqlite3.Connection) -> dict[str, int]:
    """Return the highest version number of every name, removed versions included."""
    rows = db.execute("SELECT name, last_version FROM names ORDER BY name")
    return {row["name"]: row["last_version"] for row in rows}


def registered(db: sqlite3.Connection, name: str, digest: str) -> Version | None:
    """Return the version of ``name`` with this digest, or ``None``."""
    found = select(db, "WHERE v.name = ? AND v.digest = ?", (name, digest))
    return found[0] if found else None


def add(db: sqlite3.Connection, name: str, staged: StagedArtifact, info: str) -> Version:
    """Register an artifact as the next version of ``name``."""
    add_artifact(db, staged)
    db.execute("INSERT OR IGNORE INTO names (name, last_version) VALUES (?, 0)", (name,))
    db.execute("UPDATE names SET last_version = last_version + 1 WHERE name = ?", (name,))
    db.execute(
        "INSERT INTO versions (name, version, digest, created, info) "
        "SELECT name, last_version, ?, ?, ? FROM names WHERE name = ?",
        (staged.digest, now(), info, name),
    )
    added = select(db, "WHERE v.name = ? AND v.digest = ?", (name, staged.digest))[0]
    index_words(db, name, added.version, staged.manifest)
    return added


def delete(db: sqlite3.Connection, version: Version) -> None:
    """Delete a version, and its artifact if no other version has it.

    Its blobs are recorded as removed and not deleted yet.
    """
    if version.aliases:
        alias = version.aliases[0]
        raise RegistryError(
            f"the alias {alias!r} points to it",
            place=str(version.ref),
            hint=f"Move the alias first, or: adapterhub alias rm {version.name}@{alias}",
        )
    key = (version.name, version.version)
    db.execute(
        "INSERT INTO words (words, rowid, content) "
        "SELECT 'delete', id, content FROM texts WHERE name = ? AND version = ?",
        key,
    )
    db.execute("DELETE FROM versions WHERE name = ? AND version = ?", key)
    in_use = db.execute("SELECT 1 FROM versions WHERE digest = ?", (version.digest,)).fetchone()
    if in_use:
        return
    db.execute(
        "INSERT OR REPLACE INTO removed_blobs (sha256, time) "
        "SELECT sha256, :now FROM artifact_files WHERE digest = :digest "
        "UNION SELECT sha256, :now FROM signatures WHERE digest = :digest",
        {"now": time.time(), "digest": version.digest},
    )
    db.execute("DELETE FROM artifacts WHERE digest = ?", (version.digest,))


def change_tags(
    db: sqlite3.Connection, version: Version, *, add: Iterable[str], remove: Iterable[str]
) -> Version:
    """Add and remove tags of a version and return it with its new tags."""
    key = (version.name, version.version)
    for tag in add:
        check_tag(tag)
        db.execute("INSERT OR IGNORE INTO tags (name, version, tag) VALUES (?, ?, ?)", (*key, tag))
    for tag in remove:
        db.execute("DELETE FROM tags WHERE name = ? AND version = ? AND tag = ?", (*key, tag))
    return resolve(db, version.ref)


def uses_blob(db: sqlite3.Connection, blob: str) -> bool:
    """Return whether a blob is a file or a signature of an artifact."""
    query = (
        "SELECT 1 FROM artifact_files WHERE sha256 = :blob "
        "UNION ALL SELECT 1 FROM signatures WHERE sha256 = :blob LIMIT 1"
    )
    return db.execute(query, {"blob": blob}).fetchone() is not None


def removed_at(db: sqlite3.Connection, blob: str) -> float | None:
    """Return the time of removal of the last artifact with a blob, in seconds since the epoch."""
    query = "SELECT time FROM removed_blobs WHERE sha256 = ?"
    found = db.execute(query, (blob,)).fetchone()
    return float(found["time"]) if found else None


def forget_removed(db: sqlite3.Connection, blob: str) -> None:
    """Forget the removal of a blob that is in use again, or deleted."""
    db.execute("DELETE FROM removed_blobs WHERE sha256 = ?", (blob,))


def has_artifact(db: sqlite3.Connection, digest: str) -> bool:
    """Return whether a version has this digest."""
    query = "SELECT 1 FROM artifacts WHERE digest = ?"
    return db.execute(query, (digest,)).fetchone() is not None


def artifacts(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the versions of every artifact, by digest."""
    owners: dict[str, list[str]] = {
        row["digest"]: [] for row in db.execute("SELECT digest FROM artifacts ORDER BY digest")
    }
    rows = db.execute("SELECT name, version, digest FROM versions ORDER BY name, version")
    for row in rows:
        owners.setdefault(row["digest"], []).append(f"{row['name']}@{row['version']}")
    return {digest: tuple(refs) for digest, refs in owners.items()}


def add_artifact(db: sqlite3.Connection, staged: StagedArtifact) -> None:
    """List an artifact with its files and metrics, unless it is listed."""
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
        manifest.adapter.size,
        json.dumps(manifest.labels),
        json.dumps(metrics, sort_keys=True),
        staged.size,
        manifest.parent,
        json.dumps({name: source.fingerprint for name, source in sorted(manifest.data.items())}),
        recipe_digest(manifest.recipe),
    )
    db.execute(
        "INSERT INTO artifacts (digest, task, backbone, fingerprint, method, rank, labels, "
        "metrics, size, parent, data, recipe) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    db.executemany(
        "INSERT INTO artifact_metrics (digest, metric, value) VALUES (?, ?, ?)",
        [(staged.digest, name, value) for name, value in manifest.metrics.after.items()],
    )
    db.executemany(
        "INSERT INTO artifact_files (digest, file, sha256, size) VALUES (?, ?, ?, ?)",
        [(staged.digest, name, file.sha256, file.size) for name, file in staged.files.items()],
    )
    for file in staged.files.values():
        forget_removed(db, file.sha256)


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """Return the sha256 of a recipe's canonical JSON, in hex."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def index_words(db: sqlite3.Connection, name: str, version: int, manifest: Manifest) -> None:
    """Add the words of name, labels, task and description of a new version to the search index."""
    words = [name, manifest.task, manifest.backbone.name, manifest.adapter.method]
    words += [*manifest.labels, str(manifest.recipe.get("description", ""))]
    content = "".join(f" {word}" for word in normalized_words(" ".join(words)))
    row = db.execute(
        "INSERT INTO texts (name, version, content) VALUES (?, ?, ?) RETURNING id",
        (name, version, content),
    ).fetchone()
    db.execute("INSERT INTO words (rowid, content) VALUES (?, ?)", (row["id"], content))


def select(
    db: sqlite3.Connection, clauses: str, values: Iterable[str | int | float]
) -> tuple[Version, ...]:
    """Return the versions that SQL clauses on the joined tables ``v`` and ``a`` select."""
    return tuple(_version(row) for row in db.execute(SELECT + clauses, tuple(values)))


def _version(row: sqlite3.Row) -> Version:
    fields = dict(row)
    for name in ("metrics", "info", "data"):
        fields[name] = read_stored(row[name])
    for name in ("tags", "aliases"):
        fields[name] = tuple(sorted(json.loads(row[name])))
    return Version(**{**fields, "labels": tuple(read_stored(row["labels"]))})


def _not_found(db: sqlite3.Connection, ref: AdapterRef) -> NotFoundError:
    query = "SELECT last_version FROM names WHERE name = ?"
    known = db.execute(query, (ref.name,)).fetchone()
    if known is None:
        return NotFoundError(
            "the registry has no adapter with this name", place=str(ref), hint=_near(db, ref.name)
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
        query = "SELECT alias FROM aliases WHERE name = ? ORDER BY alias"
        aliases = [row["alias"] for row in db.execute(query, (ref.name,))]
        listed = f"Its aliases are {', '.join(aliases)}" if aliases else "It has no alias"
        return NotFoundError(
            f"there is no alias {ref.alias!r}",
            place=str(ref),
            hint=did_you_mean(str(ref.alias), aliases) if aliases else listed,
        )
    return NotFoundError(problem, place=str(ref), hint=_listed(numbers))


def _near(db: sqlite3.Connection, name: str) -> str:
    # in a large registry, only names with the same beginning are compared
    rows = db.execute(
        "SELECT DISTINCT name FROM versions ORDER BY substr(name, 1, 2) = ? DESC, "
        "substr(name, 1, 1) = ? DESC, name LIMIT ?",
        (name[:2], name[:1], _NEAR_NAMES),
    )
    return did_you_mean(name, [row["name"] for row in rows]) or "The registry is empty"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[-_SHOWN_VERSIONS:]))
    return f"It has {'…, ' if len(numbers) > _SHOWN_VERSIONS else ''}{shown}"


def normalized_words(text: str) -> list[str]:
    """Return the words of a text in lower case and without accents, as they are searched."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(char for char in apart if not unicodedata.combining(char)))


def now() -> str:
    """Return the current time as stored: ISO 8601 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
