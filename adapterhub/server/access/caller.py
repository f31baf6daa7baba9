"""Who asks, and which adapters they may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapterhub.errors import RefError, SettingsError, did_you_mean

Role = Literal["use", "manage"]
ROLES: tuple[Role, ...] = ("use", "manage")
#: After an owner: all of the owner's adapters.
_ALL_OF_OWNER = "/*"
_MAX_PATTERN = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Args:
        key_id: names the key that was shown; ``None`` without one.
        role: to manage is to use too.
        adapters: that may be asked for, as in ``allows``; ``None`` for all.
        rate: most requests a minute; ``None`` for any number.
        concurrency: most requests at once, waiting ones included; ``None`` for any number.
    """

    key_id: str | None
    role: Role
    adapters: tuple[str, ...] | None = None
    rate: int | None = None
    concurrency: int | None = None

    def allows(self, ref: str) -> bool:
        """Return whether an adapter may be asked for.

        In the list, ``name`` allows each of its versions, ``name@prod`` only a request by exactly
        this reference, and ``owner/*`` all adapters of an owner.
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


def parse_role(text: str) -> Role:
    """Return a role.

    Raises:
        SettingsError: when it is none.
    """
    for role in ROLES:
        if text == role:
            return role
    raise SettingsError(f"{text!r} is no role", place="role", hint=did_you_mean(text, ROLES))


def check_pattern(pattern: str) -> None:
    """Require one entry of a list of allowed adapters.

    Raises:
        RefError: when it can't be one.
    """
    stem = pattern.removesuffix(_ALL_OF_OWNER)
    if not stem or "*" in stem or "," in stem or len(pattern) > _MAX_PATTERN:
        problem = "allows no adapter"
    elif not stem.isprintable() or any(char.isspace() for char in stem):
        problem = "holds a space or a control character"
    else:
        return
    raise RefError(problem, place=ascii(pattern)[:80], hint="Write name, name@prod or owner/*")
