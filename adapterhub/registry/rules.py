"""Rules of aliases, and evaluations that were made of versions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from adapterhub.adapters.strict_json import STRICT, Schema
from adapterhub.errors import RegistryError
from adapterhub.registry import index
from adapterhub.registry.aliases import acting_user

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRule:
    """What a version has to pass before an alias moves to it.

    Args:
        metric: that decides; needed by the bounds below.
        at_least: smallest value of it; a metric where less is better has ``at_most`` instead.
        at_most: largest value of it.
        not_worse_by: how much worse than the present holder it may be, on the same rows.
        data: file of rows to evaluate on; without it, ``metric`` is the one that training
            stored, and the holder is not compared.
        backbone: that serves; the one the adapter was trained on where not given.

    Raises:
        RegistryError: when the parts do not fit together.
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
                f"nothing is asked of {self.metric!r}",
                place="rule",
                hint="Add --at-least, --at-most or --not-worse-by",
            )
        if self.not_worse_by is not None and self.data is None:
            raise RegistryError(
                "comparing with the holder needs rows that both are evaluated on",
                place="rule",
                hint="Add --data FILE",
            )
        if self.not_worse_by is not None and self.not_worse_by < 0:
            raise RegistryError("must not be negative", place="rule.not_worse_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvaluation:
    """One evaluation of an artifact.

    Args:
        digest: of the artifact.
        time: ISO 8601 in UTC.
        who: made it.
        data: name of the file of rows.
        data_fingerprint: digest over its rows.
        metrics: name to value.
    """

    digest: str
    time: str = field(default_factory=index.now)
    who: str = field(default_factory=acting_user)
    data: str
    data_fingerprint: str
    metrics: Mapping[str, float]


_RULE_SCHEMA = Schema(AliasRule)


def set_rule(db: sqlite3.Connection, name: str, alias: str, rule: AliasRule | None) -> None:
    """Give an alias a rule, or take it away with ``None``."""
    if rule is None:
        db.execute("DELETE FROM alias_rules WHERE name = ? AND alias = ?", (name, alias))
        return
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
    """Keep an evaluation beside the artifact that it is of."""
    db.execute(
        "INSERT INTO evaluations (digest, time, who, data, data_fingerprint, result) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            evaluation.digest,
            evaluation.time,
            evaluation.who,
            evaluation.data,
            evaluation.data_fingerprint,
            json.dumps(dict(evaluation.metrics), sort_keys=True),
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
            metrics=json.loads(row["result"]),
        )
        for row in rows
    )
