"""Filtered, paginated lists of repositories."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server import queries

if TYPE_CHECKING:
    import sqlite3

    from adapterhub.hub.server.records import Repository

Sort = Literal["modified", "created"]


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
        after: ``Page.next`` of the page before.
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


@dataclass(frozen=True, slots=True)
class Page:
    """One page of repositories.

    Args:
        repositories: Repositories, each with the head of main.
        next: Cursor of the next page; ``None`` on the last page.
    """

    repositories: tuple[tuple[Repository, str | None], ...]
    next: str | None


def find(db: sqlite3.Connection, search: Search) -> Page:
    """Return one page of the repositories that match every filter."""
    conditions, values = _conditions(search)
    column = f"r.{search.sort}"
    order = "DESC" if search.newest_first else "ASC"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"{queries.REPOSITORY} {where} ORDER BY {column} {order}, r.name {order} LIMIT ?"
    rows = db.execute(query, (*values, search.limit + 1)).fetchall()
    found = [queries.to_repository(row) for row in rows[: search.limit]]
    heads = tuple((each, queries.ref(db, each.id, "branch", "main")) for each in found)
    more = len(rows) > search.limit
    return Page(heads, _cursor(getattr(found[-1], search.sort), found[-1].name) if more else None)


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
    except (ValueError, TypeError) as error:
        raise HTTPError(400, "is not a cursor of this endpoint", place="cursor") from error
    return str(value), str(name)
