"""Aliases of a name, such as ``prod``: history, promotion rules and the evaluations they check."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from adapterhub.adapters.strict_json import (
    STRICT,
    Schema,
    check_plain,
    read_stored,
    replace_unreadable,
)
from adapterhub.errors import NotFoundError, RefError, RegistryError
from adapterhub.refs import LATEST, AdapterRef, check_alias
from adapterhub.registry import index

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from adapterhub.registry.version import Version

#: Environment variable with the user name for the history.
WHO_VARIABLE = "ADAPTERHUB_USER"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One entry of the history.

    Args:
        name: Name of the adapter.
        alias: Alias that moved.
        time: Time of the move, ISO 8601 in UTC.
        who: User who moved it, ``user@host`` or ``$ADAPTERHUB_USER``.
        from_version: Version before; ``None`` if the alias was new.
        to_version: Version after; ``None`` if the alias was removed.
        why: Reason that the user gave.
    """

    name: str
    alias: str
    time: str
    who: str
    from_version: int | None
    to_version: int | None
    why: str


def acting_user() -> str:
    """Return the current user: ``$ADAPTERHUB_USER``, or ``user@host``."""
    named = os.environ.get(WHO_VARIABLE)
    if named:
        return str(replace_unreadable(named))
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # an account without a name, such as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def set_alias(
    db: sqlite3.Connection, version: Version, alias: str, *, why: str, expected: int | None = None
) -> AliasMove | None:
    """Point an alias to a version; return the move, or ``None`` if it pointed there already.

    Args:
        db: Connection that holds the write lock.
        version: Version to point to.
        alias: Alias other than ``latest``.
        why: Reason, for the history.
        expected: Version number that the alias must point to now; 0 if it must not exist.
    """
    _check_movable(alias)
    present = current(db, version.name, alias)
    if expected is not None and (present or 0) != expected:
        raise RegistryError(
            f"points to version {present} now, not to {expected or 'none'}",
            place=f"{version.name}@{alias}",
            hint="Another user moved it; see adapterhub log and decide again",
        )
    if present == version.version:
        return None
    db.execute(
        "INSERT INTO aliases (name, alias, version) VALUES (?, ?, ?) "
        "ON CONFLICT (name, alias) DO UPDATE SET version = excluded.version",
        (version.name, alias, version.version),
    )
    return _log(db, version.name, alias, present, version.version, why)


def remove_alias(db: sqlite3.Connection, name: str, alias: str, *, why: str) -> AliasMove:
    """Remove an alias."""
    _check_movable(alias)
    present = index.resolve(db, AdapterRef(name, alias=alias)).version
    db.execute("DELETE FROM aliases WHERE name = ? AND alias = ?", (name, alias))
    return _log(db, name, alias, present, None, why)


def rollback(db: sqlite3.Connection, name: str, alias: str, *, why: str) -> AliasMove:
    """Point an alias to the last version that it pointed to before and that still exists.

    A rollback is a move itself: a second rollback undoes the first.
    """
    present = index.resolve(db, AdapterRef(name, alias=alias)).version
    for move in history(db, name, alias):
        earlier = move.from_version
        if earlier is None or earlier == present:
            continue
        found = index.select(db, "WHERE v.name = ? AND v.version = ?", (name, earlier))
        if found:
            done = set_alias(db, found[0], alias, why=why)
            if done:
                return done
    raise NotFoundError("has no earlier version that still exists", place=f"{name}@{alias}")


def history(
    db: sqlite3.Connection, name: str | None = None, alias: str | None = None, limit: int = 1000
) -> tuple[AliasMove, ...]:
    """Return the moves of aliases, the newest first."""
    filters = [("name = ?", name), ("alias = ?", alias)]
    given = [(clause, value) for clause, value in filters if value is not None]
    where = f"WHERE {' AND '.join(clause for clause, _ in given)}" if given else ""
    rows = db.execute(
        "SELECT name, alias, time, who, from_version, to_version, why FROM alias_log "
        f"{where} ORDER BY id DESC LIMIT ?",
        (*[value for _, value in given], limit),
    )
    return tuple(AliasMove(**dict(row)) for row in rows)


def current(db: sqlite3.Connection, name: str, alias: str) -> int | None:
    """Return the number of the version that an alias points to, or ``None``."""
    query = "SELECT version FROM aliases WHERE name = ? AND alias = ?"
    found = db.execute(query, (name, alias)).fetchone()
    return int(found["version"]) if found else None


def _log(
    db: sqlite3.Connection, name: str, alias: str, before: int | None, after: int | None, why: str
) -> AliasMove:
    check_plain(why, "why")
    move = AliasMove(
        name=name,
        alias=alias,
        time=index.now(),
        who=acting_user(),
        from_version=before,
        to_version=after,
        why=why,
    )
    db.execute(
        "INSERT INTO alias_log (name, alias, time, who, from_version, to_version, why) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (name, alias, move.time, move.who, before, after, why),
    )
    return move


def _check_movable(alias: str) -> None:
    check_alias(alias)
    if alias == LATEST:
        raise RefError(
            "is always the newest version and cannot be moved",
            place=f"alias {LATEST!r}",
            hint="Use another alias, such as prod",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRule:
    """Conditions for moving an alias to a version.

    Args:
        metric: Metric that the bounds below refer to.
        at_least: Smallest allowed value.
        at_most: Largest allowed value, for a metric that is better when smaller.
        not_worse_by: Largest allowed loss against the current version on the same examples.
        data: File of examples to evaluate on; without it, ``metric`` is the value stored by
            training, and the current version is not compared.
        backbone: Backbone that serves the adapter; that of its training by default.
    """

    metric: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    not_worse_by: float | None = None
    data: str | None = None
    backbone: str | None = None

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        bounds = (self.at_least, self.at_most, self.not_worse_by)
        if self.metric is None and any(bound is not None for bound in bounds):
            raise RegistryError("a bound needs a metric", place="rule", hint="Add --metric")
        if self.metric is not None and all(bound is None for bound in bounds):
            raise RegistryError(
                f"the metric {self.metric!r} has no bound",
                place="rule",
                hint="Add --at-least, --at-most or --not-worse-by",
            )
        if self.not_worse_by is not None and self.data is None:
            raise RegistryError(
                "the comparison with the current version needs examples",
                place="rule",
                hint="Add --data FILE",
            )
        if self.not_worse_by is not None and self.not_worse_by < 0:
            raise RegistryError("must not be negative", place="rule.not_worse_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvaluation:
    """One evaluation of an artifact.

    Args:
        digest: Digest of the artifact.
        time: Time of the evaluation, ISO 8601 in UTC.
        who: User who ran it.
        data: Name of the file of examples.
        data_fingerprint: Fingerprint of the examples.
        metrics: Values by metric.
    """

    digest: str
    time: str = field(default_factory=index.now)
    who: str = field(default_factory=acting_user)
    data: str
    data_fingerprint: str
    metrics: Mapping[str, float]


_RULE_SCHEMA = Schema(AliasRule)


def set_rule(db: sqlite3.Connection, name: str, alias: str, rule: AliasRule | None) -> None:
    """Set the rule of an alias, or remove it with ``None``."""
    if rule is None:
        db.execute("DELETE FROM alias_rules WHERE name = ? AND alias = ?", (name, alias))
        return
    check_plain(asdict(rule), f"rule of {name}@{alias}")
    db.execute(
        "INSERT OR REPLACE INTO alias_rules (name, alias, rule) VALUES (?, ?, ?)",
        (name, alias, json.dumps(asdict(rule), sort_keys=True)),
    )


def rule_of(db: sqlite3.Connection, name: str, alias: str) -> AliasRule | None:
    """Return the rule of an alias, if it has one."""
    query = "SELECT rule FROM alias_rules WHERE name = ? AND alias = ?"
    found = db.execute(query, (name, alias)).fetchone()
    if found is None:
        return None
    return _RULE_SCHEMA.read(json.loads(found["rule"]), f"rule of {name}@{alias}")


def add_evaluation(db: sqlite3.Connection, evaluation: StoredEvaluation) -> None:
    """Store an evaluation of an artifact."""
    check_plain(evaluation.data, "data")
    metrics = replace_unreadable(dict(evaluation.metrics))
    db.execute(
        "INSERT INTO evaluations (digest, time, who, data, data_fingerprint, result) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            evaluation.digest,
            evaluation.time,
            evaluation.who,
            evaluation.data,
            evaluation.data_fingerprint,
            json.dumps(metrics, sort_keys=True),
        ),
    )


def evaluations_of(db: sqlite3.Connection, digest: str) -> tuple[StoredEvaluation, ...]:
    """Return the evaluations of an artifact, the newest first."""
    rows = db.execute(
        "SELECT digest, time, who, data, data_fingerprint, result FROM evaluations "
        "WHERE digest = ? ORDER BY id DESC",
        (digest,),
    )
    return tuple(
        StoredEvaluation(
            **{key: row[key] for key in ("digest", "time", "who", "data", "data_fingerprint")},
            metrics=read_stored(row["result"]),
        )
        for row in rows
    )
