"""Promotion rules of aliases, and stored evaluations of artifacts."""

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
