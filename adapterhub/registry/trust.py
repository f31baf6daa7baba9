"""Whose signatures count, and whether unsigned adapters are loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import NotFoundError, RefError, RegistryError, did_you_mean
from adapterhub.registry import index

if TYPE_CHECKING:
    import sqlite3

#: Switches the policy on for one process, whatever the registry says.
REQUIRE_VARIABLE = "ADAPTERHUB_REQUIRE_SIGNED"

_REQUIRE = "require_signed"
_OFF_WORDS = ("", "0", "false", "no", "off")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,95}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key whose signatures count.

    Args:
        name: that was given to it here.
        key: its id, the sha256 of its PEM.
        pem: the public key.
        added: when, ISO 8601 in UTC.
    """

    name: str
    key: str
    pem: str
    added: str


def check_key_name(name: str) -> None:
    """Require a well-formed name of a key.

    Raises:
        RefError: when it is none.
    """
    if not _NAME.fullmatch(name):
        raise RefError(
            "is no name of a key",
            place=ascii(name)[:80],
            hint="Names have letters, digits, '.', '_', '@', '+' and '-'",
        )


def add(db: sqlite3.Connection, name: str, key: str, pem: str) -> TrustedKey:
    """Trust a key; one that is trusted under this name already stays.

    Raises:
        RefError: when the name is malformed.
        RegistryError: when the name means another key, or the key has another name.
    """
    check_key_name(name)
    for held in trusted_keys(db):
        if (held.name, held.key) == (name, key):
            return held
        if held.name == name:
            raise RegistryError(
                f"is the name of another key, {held.key[:16]}…",
                place=name,
                hint=f"Choose another name, or first: adapterhub trust rm {name}",
            )
        if held.key == key:
            raise RegistryError(f"this key is trusted already, as {held.name}", place=name)
    added = TrustedKey(name=name, key=key, pem=pem, added=index.now())
    db.execute(
        "INSERT INTO trusted_keys (key, name, pem, added) VALUES (?, ?, ?, ?)",
        (added.key, added.name, added.pem, added.added),
    )
    return added


def remove(db: sqlite3.Connection, name: str) -> TrustedKey:
    """Trust a key no longer.

    Raises:
        NotFoundError: when no key has this name.
    """
    held = {key.name: key for key in trusted_keys(db)}
    if name not in held:
        raise NotFoundError(
            "no trusted key has this name", place=name, hint=did_you_mean(name, held)
        )
    db.execute("DELETE FROM trusted_keys WHERE name = ?", (name,))
    return held[name]


def trusted_keys(db: sqlite3.Connection) -> tuple[TrustedKey, ...]:
    """Return the trusted keys, sorted by name."""
    rows = db.execute("SELECT name, key, pem, added FROM trusted_keys ORDER BY name")
    return tuple(TrustedKey(**dict(row)) for row in rows)


def require_signed(db: sqlite3.Connection, required: bool) -> None:
    """Switch on or off that adapters are loaded only if a trusted key has signed them."""
    db.execute(
        "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)",
        (_REQUIRE, "on" if required else "off"),
    )


def requires_signed(db: sqlite3.Connection) -> bool:
    """Return whether adapters are loaded only if a trusted key has signed them."""
    if required_by_environment():
        return True
    found = db.execute("SELECT value FROM settings WHERE name = ?", (_REQUIRE,)).fetchone()
    # a word that is not known here must not open what was closed
    return found is not None and found["value"] != "off"


def required_by_environment() -> bool:
    """Return whether the environment asks for signatures; it can't waive them."""
    return os.environ.get(REQUIRE_VARIABLE, "").strip().lower() not in _OFF_WORDS
