"""The gate as the settings of a server ask for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from adapterhub.access import open_keys
from adapterhub.access.keys import hash_key
from adapterhub.errors import SettingsError
from adapterhub.server.access.access import Access
from adapterhub.server.access.fairness import FairQueue
from adapterhub.server.access.origin import is_loopback

if TYPE_CHECKING:
    from adapterhub.access import Role
    from adapterhub.registry import Registry
    from adapterhub.server.settings import ServerSettings


def open_access(settings: ServerSettings, registry: Registry) -> Access:
    """Return the gate of a server.

    Args:
        settings: of the server.
        registry: that the keys lie beside.

    Raises:
        SettingsError: when it would listen to other machines, and there is neither a key nor
            the word that none is needed.
        RegistryError: when the keys can't be read.
    """
    keys = open_keys(registry)
    local = is_loopback(settings.host)
    fixed = settings.api_key.get_secret_value() if settings.api_key else ""
    keyed = bool(fixed or keys.has_server_keys())
    if not (local or keyed) and settings.anonymous_access == "auto":
        raise SettingsError(
            f"{settings.host} is reached from other machines, and there is no key",
            place="host",
            hint="Make one with: adapterhub key create NAME; "
            "or say what may be done without: --anonymous-access use",
        )
    auto = settings.anonymous_access == "auto"
    return Access(
        keys,
        FairQueue(
            settings.places,
            settings.max_queue,
            time.monotonic,
            reserved_share=settings.reserved_share,
            reserved_seconds=settings.reserved_seconds,
        ),
        wait_seconds=settings.queue_timeout,
        clock=time.monotonic,
        anonymous_access=_anonymous(settings, may=local and not fixed),
        until_keyed=auto,
        local=local,
        fixed_hash=hash_key(fixed) if fixed else "",
    )


def _anonymous(settings: ServerSettings, *, may: bool) -> Role | None:
    if settings.anonymous_access == "auto":
        return "manage" if may else None
    return None if settings.anonymous_access == "no" else settings.anonymous_access
