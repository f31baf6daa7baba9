"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server is started with.

    Args:
        host: address to listen on.
        port: to listen on; 0 for any that is free.
        max_inflight: most requests inside the engine at once.
        drain_seconds: how long requests that run are waited for when the server ends.
        max_body: largest body of a request, in bytes.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_inflight: int = 64
    drain_seconds: float = 30.0
    max_body: int = 4 * 1024**2
