"""What an endpoint allows."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Limits and rules of one endpoint; sizes in bytes.

    Args:
        anonymous_read: whether public repositories can be read without a token.
        max_file: largest file.
        max_inline: largest file that clients send inside a commit. Larger ones go by Git-LFS,
            which clients with ``hf_xet`` use only under ``HF_HUB_DISABLE_XET=1``.
        max_commit: largest body of a commit.
        max_json: largest body of every other request, and largest line of a commit without
            the content of its file.
        max_files: most files of one revision, and most operations of one commit.
        max_page: most entries on one page of a listing.
        upload_seconds: how long a link to upload a file holds, and how long an uploaded file
            waits for its commit.
    """

    anonymous_read: bool = True
    max_file: int = 8 * 1024 * _MIB
    max_inline: int = 256 * _MIB
    max_commit: int = 4 * 1024 * _MIB
    max_json: int = 4 * _MIB
    max_files: int = 10_000
    max_page: int = 1000
    upload_seconds: float = 24 * 3600.0
