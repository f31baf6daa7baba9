"""Settings of the endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from adapterhub.errors import SettingsError
from adapterhub.http.connections import ConnectionLimits

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Limits and rules of one endpoint; sizes in bytes.

    Args:
        anonymous_read: Whether public repositories can be read without a token.
        max_file: Largest file.
        max_inline: Largest file inside a commit. Larger ones are sent by Git-LFS, which clients
            with ``hf_xet`` use only under ``HF_HUB_DISABLE_XET=1``.
        max_commit: Largest body of a commit.
        max_json: Largest body of any other request, and largest line of a commit without the
            content of its file.
        max_files: Largest number of files in a revision.
        max_operations: Largest number of operations in a commit.
        max_terms: Largest number of terms of a search for repositories.
        max_page: Largest number of entries on a page.
        upload_seconds: Lifetime of an upload link, and of an uploaded file without a commit.
        public_url: Address under which clients reach the endpoint, for links in responses; the
            address that it listens on if empty. It is never taken from a request.
        body_timeout: Seconds within which the body of a request must arrive.
        request_timeout: Longest duration of a request until the end of its response, in seconds.
        min_rate: Bytes of a body or a response that extend both by a second.
        connections: Limits of connections.
    """

    anonymous_read: bool = True
    max_file: int = 8 * 1024 * _MIB
    max_inline: int = 256 * _MIB
    max_commit: int = 4 * 1024 * _MIB
    max_json: int = 4 * _MIB
    max_files: int = 10_000
    max_operations: int = 1000
    max_terms: int = 50
    max_page: int = 1000
    upload_seconds: float = 24 * 3600.0
    public_url: str = ""
    body_timeout: float = 30.0
    request_timeout: float = 600.0
    min_rate: float = 10 * 1024
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)

    def __post_init__(self) -> None:
        if self.public_url and not _is_url(self.public_url):
            raise SettingsError(
                f"is {self.public_url[:200]!r}",
                place="public_url",
                hint="Write a scheme, a host and a port, such as https://hub.example:8600",
            )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        # an invalid port is an error when it is read
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and plain and parts.port != 0
        )
    except ValueError:
        return False
