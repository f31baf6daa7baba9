"""Requests without a key on loopback: from this machine, not from a page in its browser.

A browser lets any page send requests to ``127.0.0.1``, and a name that its owner points there
makes the answers readable too. Both show in the headers.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapterhub.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL_NAMES = ("localhost", "ip6-localhost")
_HINT = "Make a key with: adapterhub key create, and send it"


def check_from_here(headers: Mapping[str, str]) -> None:
    """Require that a request was sent to this machine by its own name, and by no other site.

    Raises:
        Forbidden: when it was not.
    """
    host = headers.get("host", "")
    if host and not _can_be_here(_parts_of(f"//{host}")[0]):
        raise Forbidden("is not this machine's own name", place=f"Host {host[:120]}", hint=_HINT)
    origin = headers.get("origin", "")
    if origin and _parts_of(origin)[1] != host:
        raise Forbidden("is another site", place=f"Origin {origin[:120]}", hint=_HINT)


def is_loopback(host: str) -> bool:
    """Return whether a name or address can only be of the machine itself."""
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _can_be_here(host: str) -> bool:
    # no site outside has a name of one word
    one_word = bool(host) and "." not in host and ":" not in host
    return one_word or host.endswith(".localhost") or is_loopback(host)


def _parts_of(address: str) -> tuple[str, str]:
    """Return the name, and the name with the port, in an address; empty where it is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "", ""
    return parts.hostname or "", parts.netloc
