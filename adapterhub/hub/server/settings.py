"""Settings of the endpoint."""

from __future__ import annotations

from dataclasses import dataclass

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
        max_files: Largest number of files in a revision, and of operations in a commit.
        max_page: Largest number of entries on a page.
        upload_seconds: Lifetime of an upload link, and of an uploaded file without a commit.
    """

    anonymous_read: bool = True
    max_file: int = 8 * 1024 * _MIB
    max_inline: int = 256 * _MIB
    max_commit: int = 4 * 1024 * _MIB
    max_json: int = 4 * _MIB
    max_files: int = 10_000
    max_page: int = 1000
    upload_seconds: float = 24 * 3600.0
