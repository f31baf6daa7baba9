"""Filtered, paginated lists of versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.registry import index

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from adapterhub.registry.version import Version

#: A filter with fewer matches than this is evaluated first and the others on its matches. If all
#: have more, the versions are scanned in order until the page is full.
FEW = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Filters of a list of versions, all of which must match.

    Args:
        prefix: Prefix of the name.
        task: Name of the task.
        backbone: Name of the backbone.
        method: Adapter method, ``lora``, ``prefix``, ``prompt`` or ``ia3``.
        metric_at_least: Smallest value of metrics after training, by metric.
        tag: Tag of the version.
        alias: Alias that points to the version.
        text: Words, each of them a prefix of a word in name, task, labels or description.
        limit: Largest number of versions; ``None`` for all.
        after: Name and number of the version after which the page begins.
    """

    prefix: str | None = None
    task: str | None = None
    backbone: str | None = None
    method: str | None = None
    metric_at_least: Mapping[str, float] = field(default_factory=dict)
    tag: str | None = None
    alias: str | None = None
    text: str | None = None
    limit: int | None = None
    after: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Filter:
    """A condition on ``v`` and ``a``, and a query for the versions or digests that match.

    Args:
        condition: SQL over the joined tables.
        source: SQL that selects the matches without the joined tables.
        key: Columns of the joined tables that ``source`` selects.
        values: Values of the placeholders, the same in ``condition`` and ``source``.
    """

    condition: str
    source: str
    key: str
    values: tuple[str | float, ...]


def find(db: sqlite3.Connection, query: Query) -> tuple[Version, ...]:
    """Return the versions that match every filter, by name and then number."""
    filters = list(_filters(query))
    counts = [_count(db, each) for each in filters]
    first = counts.index(min(counts)) if counts and min(counts) < FEW else None
    conditions: list[str] = []
    values: list[str | int | float] = []
    for number, each in enumerate(filters):
        chosen = f"{each.key} IN ({each.source})"
        conditions.append(chosen if number == first else each.condition)
        values += each.values
    if query.prefix:
        # '~' sorts after every character of a name
        conditions.append("v.name >= ? AND v.name < ?")
        values += [query.prefix, f"{query.prefix}~"]
    if query.after is not None:
        conditions.append("(v.name, v.version) > (?, ?)")
        values += query.after
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    limit = f"LIMIT {int(query.limit)}" if query.limit is not None else ""
    return index.select(db, f"{where} ORDER BY v.name, v.version {limit}", values)


def _filters(query: Query) -> Iterable[_Filter]:
    for column, value in (
        ("task", query.task),
        ("backbone", query.backbone),
        ("method", query.method),
    ):
        if value is not None:
            source = f"SELECT digest FROM artifacts WHERE {column} = ?"
            # the plus keeps SQLite from using the index on this column and sorting all matches
            yield _Filter(f"+a.{column} = ?", source, "a.digest", (value,))
    for metric, least in query.metric_at_least.items():
        source = "SELECT digest FROM artifact_metrics WHERE metric = ? AND value >= ?"
        condition = f"EXISTS ({source} AND digest = a.digest)"
        yield _Filter(condition, source, "a.digest", (metric, least))
    for table, column, value in (("tags", "tag", query.tag), ("aliases", "alias", query.alias)):
        if value is not None:
            source = f"SELECT name, version FROM {table} WHERE {column} = ?"
            condition = f"EXISTS ({source} AND name = v.name AND version = v.version)"
            yield _Filter(condition, source, "(v.name, v.version)", (value,))
    if query.text is not None:
        yield from map(_word_filter, index.normalized_words(query.text))


def _word_filter(word: str) -> _Filter:
    # a word has letters and digits only, so it needs no escaping in MATCH and LIKE; joined in
    # this order, counting stops at its limit, while SQLite evaluates IN (…) completely
    source = (
        "SELECT t.name, t.version FROM words CROSS JOIN texts t ON t.id = words.rowid "
        f"WHERE words MATCH '\"{word}\"*'"
    )
    condition = (
        "EXISTS (SELECT 1 FROM texts t WHERE t.name = v.name AND t.version = v.version "
        f"AND t.content LIKE '% {word}%')"
    )
    return _Filter(condition, source, "(v.name, v.version)", ())


def _count(db: sqlite3.Connection, each: _Filter) -> int:
    query = f"SELECT count(*) FROM ({each.source} LIMIT {FEW})"
    return int(db.execute(query, each.values).fetchone()[0])
