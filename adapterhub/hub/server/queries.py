"""Queries of the database of the endpoint."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import (
    MAIN,
    HeadVersion,
    Ref,
    RefKind,
    Repository,
    Revision,
    TreeFile,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from adapterhub.hub.server.card import Card

REPOSITORY = """
    SELECT r.id, r.name, r.private, r.created, r.modified, r.pipeline_tag, r.library, r.card,
           (SELECT json_group_array(tag) FROM repository_tags t WHERE t.repository = r.id) AS tags
    FROM repositories r
"""
Sort = Literal["modified", "created"]
#: A repository and the head of main.
FoundRepository: TypeAlias = tuple[Repository, str | None]


def repository(db: sqlite3.Connection, name: str) -> Repository | None:
    """Return the repository with a name, or ``None``."""
    row = db.execute(f"{REPOSITORY} WHERE r.name = ?", (name,)).fetchone()
    return to_repository(row) if row else None


def add_repository(db: sqlite3.Connection, name: str, *, private: bool, created: str) -> Repository:
    """Add a repository without commits."""
    row = (name, private, created, created)
    db.execute(
        "INSERT INTO repositories (name, private, created, modified) VALUES (?, ?, ?, ?)", row
    )
    found = repository(db, name)
    assert found is not None
    return found


def describe(db: sqlite3.Connection, repository_id: int, card: Card, modified: str) -> None:
    """Store the metadata of the card on main and the time of its change."""
    db.execute(
        "UPDATE repositories SET pipeline_tag = ?, library = ?, card = ?, modified = ? "
        "WHERE id = ?",
        (card.pipeline_tag, card.library, json.dumps(dict(card.data)), modified, repository_id),
    )
    db.execute("DELETE FROM repository_tags WHERE repository = ?", (repository_id,))
    db.executemany(
        "INSERT INTO repository_tags (repository, tag) VALUES (?, ?)",
        [(repository_id, tag) for tag in card.tags],
    )


def add_revision(
    db: sqlite3.Connection, repository_id: int, new: Revision, tree: Mapping[str, TreeFile]
) -> None:
    """Add a revision with its files; an existing one is not changed."""
    values = (new.sha, new.parent, new.author, new.time, new.title, new.message)
    added = db.execute(
        "INSERT OR IGNORE INTO revisions (repository, sha, parent, author, time, title, message) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (repository_id, *values),
    )
    if added.rowcount:
        db.executemany(
            "INSERT INTO files (revision, path, sha256, size, lfs) VALUES (?, ?, ?, ?, ?)",
            [
                (added.lastrowid, path, file.sha256, file.size, file.lfs)
                for path, file in tree.items()
            ],
        )


def revision(db: sqlite3.Connection, repository_id: int, sha: str) -> Revision | None:
    """Return the revision with a commit name, or ``None``."""
    query = (
        "SELECT sha, parent, author, time, title, message FROM revisions "
        "WHERE repository = ? AND sha = ?"
    )
    row = db.execute(query, (repository_id, sha)).fetchone()
    return Revision(**dict(row)) if row else None


def tree(db: sqlite3.Connection, repository_id: int, sha: str) -> dict[str, TreeFile]:
    """Return the files of a revision by path, sorted."""
    query = (
        "SELECT f.path, f.sha256, f.size, f.lfs FROM files f "
        "JOIN revisions v ON v.id = f.revision WHERE v.repository = ? AND v.sha = ? ORDER BY f.path"
    )
    rows = db.execute(query, (repository_id, sha))
    return {row["path"]: TreeFile(row["sha256"], row["size"], bool(row["lfs"])) for row in rows}


def file(db: sqlite3.Connection, repository_id: int, sha: str, path: str) -> TreeFile | None:
    """Return one file of a revision, or ``None``."""
    query = (
        "SELECT f.sha256, f.size, f.lfs FROM files f JOIN revisions v ON v.id = f.revision "
        "WHERE v.repository = ? AND v.sha = ? AND f.path = ?"
    )
    row = db.execute(query, (repository_id, sha, path)).fetchone()
    return TreeFile(row["sha256"], row["size"], bool(row["lfs"])) if row else None


def ref(db: sqlite3.Connection, repository_id: int, kind: RefKind, name: str) -> str | None:
    """Return the commit of a branch or tag, or ``None``."""
    query = "SELECT sha FROM refs WHERE repository = ? AND kind = ? AND name = ?"
    row = db.execute(query, (repository_id, kind, name)).fetchone()
    return str(row["sha"]) if row else None


def refs(db: sqlite3.Connection, repository_id: int) -> tuple[Ref, ...]:
    """Return all branches and tags, by kind and name."""
    query = "SELECT kind, name, sha FROM refs WHERE repository = ? ORDER BY kind, name"
    return tuple(Ref(**dict(row)) for row in db.execute(query, (repository_id,)))


def set_ref(db: sqlite3.Connection, repository_id: int, kind: RefKind, name: str, sha: str) -> None:
    """Point a branch or tag to a commit."""
    db.execute(
        "INSERT OR REPLACE INTO refs (repository, kind, name, sha) VALUES (?, ?, ?, ?)",
        (repository_id, kind, name, sha),
    )


def delete_ref(db: sqlite3.Connection, repository_id: int, kind: RefKind, name: str) -> bool:
    """Delete a branch or tag and return whether it existed."""
    query = "DELETE FROM refs WHERE repository = ? AND kind = ? AND name = ?"
    return db.execute(query, (repository_id, kind, name)).rowcount > 0


def add_upload(db: sqlite3.Connection, repository_id: int, sha256: str, size: int) -> None:
    """Record the upload of a file to a repository."""
    db.execute(
        "INSERT OR REPLACE INTO uploads (repository, sha256, size, time) VALUES (?, ?, ?, ?)",
        (repository_id, sha256, size, time.time()),
    )


def forget_uploads(db: sqlite3.Connection, before: float) -> None:
    """Forget uploads that no commit used in time."""
    db.execute("DELETE FROM uploads WHERE time < ?", (before,))


def add_git_names(db: sqlite3.Connection, names: Mapping[str, str]) -> None:
    """Store git's names of files, by sha256."""
    db.executemany("INSERT OR IGNORE INTO git_names (sha256, oid) VALUES (?, ?)", names.items())


def sizes(db: sqlite3.Connection, repository_id: int, since: float) -> dict[str, int]:
    """Return the sizes of the files that commits to a repository may use, by sha256.

    These are the files of its revisions and its uploads after ``since``, so that the files of
    another repository cannot be obtained by guessing a digest.
    """
    query = (
        "SELECT sha256, size FROM uploads WHERE repository = ? AND time >= ? UNION "
        "SELECT f.sha256, f.size FROM files f JOIN revisions v ON v.id = f.revision "
        "WHERE v.repository = ?"
    )
    rows = db.execute(query, (repository_id, since, repository_id))
    return {row["sha256"]: row["size"] for row in rows}


def uses_blob(db: sqlite3.Connection, sha256: str, since: float) -> bool:
    """Return whether a revision, or an upload after ``since``, has a blob."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM files WHERE sha256 = ?) OR "
        "EXISTS (SELECT 1 FROM uploads WHERE sha256 = ? AND time >= ?)"
    )
    return bool(db.execute(query, (sha256, sha256, since)).fetchone()[0])


def link_version(
    db: sqlite3.Connection, repository_id: int, number: int, digest: str, sha: str
) -> None:
    """Record the revision of a version of the registry and tag it, ``v3`` for version 3."""
    added = db.execute(
        "INSERT OR IGNORE INTO versions (repository, version, digest, sha) VALUES (?, ?, ?, ?)",
        (repository_id, number, digest, sha),
    )
    # an existing tag of a user is kept
    if added.rowcount and ref(db, repository_id, "tag", f"v{number}") is None:
        set_ref(db, repository_id, "tag", f"v{number}", sha)


def head_version(db: sqlite3.Connection, name: str) -> HeadVersion | None:
    """Return the version of the registry at the head of main, or ``None``."""
    query = (
        "SELECT v.repository, v.version, v.digest, v.sha FROM versions v "
        "JOIN repositories r ON r.id = v.repository "
        "JOIN refs f ON f.repository = r.id AND f.kind = 'branch' AND f.name = ? AND f.sha = v.sha "
        "WHERE r.name = ? ORDER BY v.version DESC LIMIT 1"
    )
    row = db.execute(query, (MAIN, name)).fetchone()
    return None if row is None else HeadVersion(**dict(row))


def version_commit(db: sqlite3.Connection, repository_id: int, number: int) -> str | None:
    """Return the commit of a version of the registry, or ``None``."""
    query = "SELECT sha FROM versions WHERE repository = ? AND version = ?"
    row = db.execute(query, (repository_id, number)).fetchone()
    return str(row["sha"]) if row else None


def move_version(db: sqlite3.Connection, head: HeadVersion, sha: str) -> None:
    """Move a version and its tag to another revision."""
    db.execute(
        "UPDATE versions SET sha = ? WHERE repository = ? AND version = ?",
        (sha, head.repository, head.version),
    )
    tag = f"v{head.version}"
    if ref(db, head.repository, "tag", tag) == head.sha:
        set_ref(db, head.repository, "tag", tag, sha)


def last_versions(db: sqlite3.Connection) -> dict[str, int]:
    """Return the highest version of each name that was added or withdrawn."""
    query = (
        "SELECT name, max(version) AS last FROM ("
        "SELECT r.name, v.version FROM versions v JOIN repositories r ON r.id = v.repository "
        "UNION ALL SELECT name, version FROM withdrawn) GROUP BY name"
    )
    return {row["name"]: row["last"] for row in db.execute(query)}


def last_version(db: sqlite3.Connection, name: str) -> int:
    """Return the highest version of a name that was added or withdrawn, or 0."""
    query = (
        "SELECT max(version) FROM ("
        "SELECT v.version FROM versions v JOIN repositories r ON r.id = v.repository "
        "WHERE r.name = ? UNION ALL SELECT version FROM withdrawn WHERE name = ?)"
    )
    return int(db.execute(query, (name, name)).fetchone()[0] or 0)


def withdraw(db: sqlite3.Connection, name: str, version: int) -> None:
    """Keep versions of a name up to this one from being added again."""
    db.execute("INSERT OR REPLACE INTO withdrawn (name, version) VALUES (?, ?)", (name, version))


def to_repository(row: sqlite3.Row) -> Repository:
    """Return the repository of a result of ``REPOSITORY``."""
    values = dict(row)
    values["private"] = bool(values["private"])
    values["card"] = json.loads(values["card"])
    values["tags"] = tuple(sorted(json.loads(values["tags"])))
    return Repository(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Filters of a list of repositories, all of which must match.

    Args:
        owners: Owners whose private repositories are included; ``None`` for all owners.
        readable: Owners whose repositories are included at all; ``None`` for all owners.
        text: Part of the name.
        owner: Owner of the repository.
        tags: Tags of the card, all of them.
        pipeline_tag: Task of the card.
        sort: Time to sort by.
        newest_first: Whether the newest repository is first.
        limit: Largest number of repositories on the page.
        after: Cursor of this page, from the page before.
    """

    owners: frozenset[str] | None
    readable: frozenset[str] | None = None
    text: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    sort: Sort = "modified"
    newest_first: bool = True
    limit: int = 100
    after: str | None = None


def find(db: sqlite3.Connection, search: Search) -> tuple[list[FoundRepository], str | None]:
    """Return one page of the repositories that match every filter.

    Returns:
        Repositories, each with the head of main, and the cursor of the next page; ``None`` on the
        last page.
    """
    conditions, values = _conditions(search)
    column = f"r.{search.sort}"
    order = "DESC" if search.newest_first else "ASC"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"{REPOSITORY} {where} ORDER BY {column} {order}, r.name {order} LIMIT ?"
    rows = db.execute(query, (*values, search.limit + 1)).fetchall()
    found = [to_repository(row) for row in rows[: search.limit]]
    heads = [(each, ref(db, each.id, "branch", MAIN)) for each in found]
    more = len(rows) > search.limit
    return heads, _cursor(getattr(found[-1], search.sort), found[-1].name) if more else None


def _conditions(search: Search) -> tuple[list[str], list[str]]:
    conditions: list[str] = []
    values: list[str] = []

    def require(condition: str, *given: str) -> None:
        conditions.append(condition)
        values.extend(given)

    owner_of = "substr(r.name, 1, instr(r.name, '/') - 1)"
    if search.owners is not None:
        listed = json.dumps(sorted(search.owners))
        require(f"(NOT r.private OR {owner_of} IN (SELECT value FROM json_each(?)))", listed)
    if search.readable is not None:
        listed = json.dumps(sorted(search.readable))
        require(f"{owner_of} IN (SELECT value FROM json_each(?))", listed)
    if search.text:
        require("instr(r.name, ?)", search.text.lower())
    if search.owner:
        # '0' is the character after '/'
        require("r.name >= ? AND r.name < ?", f"{search.owner}/", f"{search.owner}0")
    if search.pipeline_tag:
        require("r.pipeline_tag = ?", search.pipeline_tag)
    for tag in search.tags:
        require("r.id IN (SELECT repository FROM repository_tags WHERE tag = ?)", tag)
    if search.after:
        sign = "<" if search.newest_first else ">"
        require(f"(r.{search.sort}, r.name) {sign} (?, ?)", *_read_cursor(search.after))
    return conditions, values


def _cursor(value: str, name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([value, name]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        value, name = json.loads(base64.b64decode(cursor.encode(), b"-_", validate=True))
        # a lone surrogate is no text to SQLite
        f"{value}{name}".encode()
    except (ValueError, TypeError) as error:
        raise HTTPError(400, "is not a cursor of this endpoint", place="cursor") from error
    return str(value), str(name)
