"""Addresses of repositories on a Hub: ``hf://owner/repo`` and ``hf://owner/repo@revision``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapterhub.errors import RefError

SCHEME = "hf://"
#: Largest length of a revision in characters.
MAX_REVISION = 255

_PART = re.compile(r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_HINT = "Write hf://owner/repository, or hf://owner/repository@revision"


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository on the Hub that ``HF_ENDPOINT`` names, or on the Hugging Face Hub.

    Args:
        repo_id: Id of the repository, ``owner/name``.
        revision: Branch, tag or commit; ``None`` for the main branch.
    """

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repo_id}{at}"


def parse_address(text: str) -> HubAddress:
    """Parse an address.

    Raises:
        RefError: When it is malformed.
    """
    place = ascii(text)[:80]
    if not text.startswith(SCHEME):
        raise RefError(f"does not begin with {SCHEME}", place=place, hint=_HINT)
    repo_id, at, revision = text.removeprefix(SCHEME).partition("@")
    parts = repo_id.split("/")
    if len(parts) != 2 or not all(_is_part(part) for part in parts) or len(repo_id) > 96:
        raise RefError("names no repository", place=place, hint=_HINT)
    if at and not _is_revision(revision):
        raise RefError("names no revision after '@'", place=place, hint=_HINT)
    return HubAddress(repo_id, revision or None)


def parse_repo_id(text: str) -> HubAddress:
    """Parse ``owner/name`` or ``owner/name@revision``, with or without ``hf://``.

    Raises:
        RefError: When the text is not an address.
    """
    return parse_address(f"{SCHEME}{text.removeprefix(SCHEME)}")


def _is_part(text: str) -> bool:
    return bool(_PART.fullmatch(text)) and ".." not in text and "--" not in text


def _is_revision(text: str) -> bool:
    return (
        0 < len(text) <= MAX_REVISION
        and text.isprintable()
        and ".." not in text
        and not any(char.isspace() or char in "@?#\\" for char in text)
    )
