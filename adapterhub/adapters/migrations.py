"""Ordered migrations of stored documents to the current schema.

A document is a ``dict`` with an integer ``schema_version``. Migrations are append-only: a released
one is never edited, because documents written before it exist.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Document = dict[str, Any]

VERSION_KEY = "schema_version"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, from ``from_version`` to ``from_version + 1``.

    Args:
        from_version: Schema version of its input.
        apply: Function from a document to the upgraded one; the caller sets ``schema_version``.
    """

    from_version: int
    name: str
    apply: Callable[[Document], Document]


def _all_known(document: Document) -> Document:
    # before adapters of others could be imported, every fact was recorded
    return {**document, "unknown": []}


def _plain_features(document: Document) -> Document:
    # before adapters of plain peft could have them, no adapter had these features
    document["conversion"] = None
    adapter = document.get("adapter")
    if isinstance(adapter, dict) and adapter.get("method") == "lora":
        adapter["spec"] = {**_PLAIN_LORA, **adapter["spec"]}
    return document


_PLAIN_LORA: Document = {
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "target_parameters": [],
    "trainable_token_indices": {},
    "alora_invocation_tokens": [],
}


#: Migrations of an artifact's ``manifest.json``.
MANIFEST_MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "unrecorded keys of adapters that were trained elsewhere", _all_known),
    Migration(2, "features of LoRA, and conversions", _plain_features),
)


def upgrade(
    document: Mapping[str, Any], migrations: Sequence[Migration], *, place: str
) -> Document:
    """Return a copy of ``document`` at the current schema.

    The current schema is one past the last migration, or 1 where there are none.

    Args:
        migrations: All migrations in order, the first from version 1.
    """
    current = len(migrations) + 1
    version = _version(document, current, place)
    upgraded: Document = deepcopy(dict(document))
    for migration in _pending(migrations, version):
        upgraded = migration.apply(upgraded)
        upgraded[VERSION_KEY] = migration.from_version + 1
    return upgraded


def _version(document: Mapping[str, Any], current: int, place: str) -> int:
    version = document.get(VERSION_KEY)
    if type(version) is not int or version < 1:
        raise ArtifactError(
            f"{VERSION_KEY} must be a whole number of 1 or more, found {version!r}", place=place
        )
    if version > current:
        raise ArtifactError(
            f"has schema version {version}, this adapterhub reads up to {current}",
            place=place,
            hint="Upgrade adapterhub to read it",
        )
    return version


def _pending(migrations: Sequence[Migration], version: int) -> Sequence[Migration]:
    found = [migration.from_version for migration in migrations]
    if found != list(range(1, len(migrations) + 1)):
        raise ValueError(f"migrations must start at version 1 and leave no gap, found {found}")
    return migrations[version - 1 :]
