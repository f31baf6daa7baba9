"""Addresses of servers, taken before anything large is loaded."""

from __future__ import annotations

import errno
import os
import socket

from adapterhub.errors import SettingsError

_HINTS = {
    errno.EADDRINUSE: "Another process listens there; give another --port, or 0 for any",
    errno.EACCES: "Give a --port above 1023",
    errno.EADDRNOTAVAIL: "Give a --host of this machine",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets that are bound to an address and refuse connections until they listen.

    Args:
        host: Host name or address.
        port: Port; 0 for any free one.

    Raises:
        SettingsError: If the name is unknown, or the address can't be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        problem = f"is not the name of a host: {error}"
        raise SettingsError(problem, place=f"host {host!r:.80}") from error
    bound: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        own = socket.socket(family, kind, protocol)
        try:
            _bind(own, address)
        except OSError as error:
            own.close()
            if bound and error.errno == errno.EADDRNOTAVAIL:
                # a name of two families, one of which the machine does not have
                continue
            for each in bound:
                each.close()
            raise _unavailable(host, port, error) from error
        bound.append(own)
        if not port:
            # a second family would get another port
            break
    return bound


def _bind(own: socket.socket, address: object) -> None:
    if os.name == "posix":
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own.family == socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    own.bind(address)  # type: ignore[arg-type]


def _unavailable(host: str, port: int, error: OSError) -> SettingsError:
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return SettingsError(
        f"can't be listened on: {reason}",
        place=f"address {host}:{port}",
        hint=_HINTS.get(error.errno or 0, ""),
    )
