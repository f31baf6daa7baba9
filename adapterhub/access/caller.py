"""The caller of a request and what its key allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapterhub.errors import RefError, SettingsError, did_you_mean

Role = Literal["use", "manage"]
Right = Literal["read", "write"]
ROLES: tuple[Role, ...] = ("use", "manage")
#: Owner in a scope for all owners.
ALL = "*"
#: Ending of a pattern for all adapters of an owner.
_ALL_OF_OWNER = "/*"
_MAX_PATTERN = 256


@dataclass(frozen=True, slots=True)
class Scope:
    """One right on the Hub endpoint; ``str`` gives ``write:owner``.

    Args:
        right: ``read``, or ``write``, which includes reading.
        owner: Owner of the repositories, or ``*`` for all owners.
    """

    right: Right
    owner: str

    def __str__(self) -> str:
        return f"{self.right}:{self.owner}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, as its key identifies it.

    Args:
        key_id: Id of the key; ``None`` without a key.
        role: Role on the inference server, where ``manage`` includes ``use``; ``None`` for a key
            that is for the Hub endpoint only.
        adapters: Patterns of the adapters that the caller may use, see ``allows``; ``None`` for
            all adapters.
        rate: Limit of requests per minute; ``None`` for no limit.
        concurrency: Limit of concurrent requests, queued ones included; ``None`` for no limit.
        name: Name of the key, which is its user on the Hub endpoint; ``None`` without a key.
        scopes: Rights on the Hub endpoint.
    """

    key_id: str | None = None
    role: Role | None = None
    adapters: tuple[str, ...] | None = None
    rate: int | None = None
    concurrency: int | None = None
    name: str | None = None
    scopes: frozenset[Scope] = frozenset()

    def allows(self, ref: str) -> bool:
        """Return whether the caller may use an adapter.

        The pattern ``name`` allows every version of an adapter, ``name@prod`` only requests with
        exactly this reference, and ``owner/*`` all adapters of an owner.
        """
        if self.adapters is None:
            return True
        name = ref.partition("@")[0]
        owner, slash, _ = name.rpartition("/")
        return (
            ref in self.adapters
            or name in self.adapters
            or (bool(slash) and f"{owner}{_ALL_OF_OWNER}" in self.adapters)
        )

    def may(self, right: Right, owner: str) -> bool:
        """Return whether the scopes grant a right on the repositories of an owner."""
        rights: tuple[Right, ...] = ("read", "write") if right == "read" else ("write",)
        return any(Scope(each, who) in self.scopes for each in rights for who in (owner, ALL))

    def readable_owners(self) -> frozenset[str] | None:
        """Return the owners whose repositories the scopes let read; ``None`` for all owners."""
        found = frozenset(scope.owner for scope in self.scopes)
        return None if ALL in found else found


def parse_role(text: str) -> Role:
    """Parse a role.

    Raises:
        SettingsError: When there is no such role.
    """
    for role in ROLES:
        if text == role:
            return role
    raise SettingsError(f"unknown role {text!r}", place="role", hint=did_you_mean(text, ROLES))


def parse_scope(text: str) -> Scope:
    """Parse ``read:owner``, ``write:owner``, ``read:*`` or ``write:*``.

    Raises:
        SettingsError: When it is not a scope.
    """
    right, _, owner = text.partition(":")
    for known in ("read", "write"):
        if right == known and owner:
            return Scope(known, owner)
    raise SettingsError(
        "is not a scope", place=repr(text), hint="Write read:*, read:owner or write:owner"
    )


def check_pattern(pattern: str) -> None:
    """Check one pattern of allowed adapters.

    Raises:
        RefError: When it is malformed.
    """
    stem = pattern.removesuffix(_ALL_OF_OWNER)
    if not stem or "*" in stem or "," in stem or len(pattern) > _MAX_PATTERN:
        problem = "matches no adapter"
    elif not stem.isprintable() or any(char.isspace() for char in stem):
        problem = "contains a space or a control character"
    else:
        return
    raise RefError(problem, place=ascii(pattern)[:80], hint="Write name, name@prod or owner/*")
