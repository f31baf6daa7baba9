"""Trusted keys of a registry, and whether it requires their signatures."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import NotFoundError, RefError, RegistryError, did_you_mean
from adapterhub.registry import index

if TYPE_CHECKING:
    import sqlite3

#: Environment variable that switches the policy on for one process, whatever the registry says.
REQUIRE_VARIABLE = "ADAPTERHUB_REQUIRE_SIGNED"

_REQUIRE = "require_signed"
_OFF_WORDS = ("", "0", "false", "no", "off")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,95}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key whose signatures are trusted.

    Args:
        name: Name of the key in this registry.
        key: Id of the key, the sha256 of its PEM.
        pem: Public key in PEM.
        added: Time of addition, ISO 8601 in UTC.
    """

    name: str
    key: str
    pem: str
    added: str


def check_key_name(name: str) -> None:
    """Check the name of a key."""
    if not _NAME.fullmatch(name):
        raise RefError(
            "is not a name of a key",
            place=ascii(name)[:80],
            hint="Names have letters, digits, '.', '_', '@', '+' and '-'",
        )


def add_key(db: sqlite3.Connection, name: str, key: str, pem: str) -> TrustedKey:
    """Add a trusted key, or return the one that is trusted by this name already."""
    check_key_name(name)
    for present in trusted_keys(db):
        if (present.name, present.key) == (name, key):
            return present
        if present.name == name:
            raise RegistryError(
                f"is the name of another key, {present.key[:16]}…",
                place=name,
                hint=f"Choose another name, or first: adapterhub trust rm {name}",
            )
        if present.key == key:
            raise RegistryError(f"this key is trusted already, as {present.name}", place=name)
    added = TrustedKey(name=name, key=key, pem=pem, added=index.now())
    db.execute(
        "INSERT INTO trusted_keys (key, name, pem, added) VALUES (?, ?, ?, ?)",
        (added.key, added.name, added.pem, added.added),
    )
    return added


def remove_key(db: sqlite3.Connection, name: str) -> TrustedKey:
    """Remove a trusted key and return it."""
    present = {key.name: key for key in trusted_keys(db)}
    if name not in present:
        hint = did_you_mean(name, present)
        raise NotFoundError("no trusted key has this name", place=name, hint=hint)
    db.execute("DELETE FROM trusted_keys WHERE name = ?", (name,))
    return present[name]


def trusted_keys(db: sqlite3.Connection) -> tuple[TrustedKey, ...]:
    """Return the trusted keys, sorted by name."""
    found = db.execute("SELECT name, key, pem, added FROM trusted_keys ORDER BY name")
    return tuple(TrustedKey(**dict(each)) for each in found)


def set_requires_signed(db: sqlite3.Connection, required: bool) -> None:
    """Store whether only adapters signed by a trusted key are loaded."""
    db.execute(
        "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)",
        (_REQUIRE, "on" if required else "off"),
    )


def requires_signed(db: sqlite3.Connection) -> bool:
    """Return whether only adapters signed by a trusted key are loaded."""
    if required_by_environment():
        return True
    found = db.execute("SELECT value FROM settings WHERE name = ?", (_REQUIRE,)).fetchone()
    # an unknown value must not switch the policy off
    return found is not None and found["value"] != "off"


def required_by_environment() -> bool:
    """Return whether the environment switches the policy on."""
    return os.environ.get(REQUIRE_VARIABLE, "").strip().lower() not in _OFF_WORDS
