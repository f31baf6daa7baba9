"""The one table from names of loaded adapters to digests."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from adapterhub.errors import NotFoundError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


class AdapterNames:
    """Names of loaded adapters and the digests that they mean now. Safe for several threads.

    A name is resolved once, when a request is admitted. If it means another digest later, the
    requests that were admitted before keep theirs.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._digests: dict[str, str] = {}

    def set(self, name: str, digest: str) -> None:
        """Let a name mean a digest from now on."""
        with self._lock:
            self._digests[name] = digest

    def get(self, name: str) -> str | None:
        """Return the digest of a name, or ``None`` if the name is unknown."""
        with self._lock:
            return self._digests.get(name)

    def digest(self, name: str) -> str:
        """Return the digest of a name.

        Raises:
            NotFoundError: If the name is unknown.
        """
        with self._lock:
            if name not in self._digests:
                hint = did_you_mean(name, self._digests)
                raise NotFoundError("is not loaded", place=name[:200], hint=hint)
            return self._digests[name]

    def remove(self, name: str) -> None:
        """Remove a name if it is there."""
        with self._lock:
            self._digests.pop(name, None)

    def names(self, digest: str) -> tuple[str, ...]:
        """Return all names that mean a digest."""
        with self._lock:
            return tuple(name for name, each in self._digests.items() if each == digest)

    def all(self) -> Mapping[str, str]:
        """Return a copy of the table."""
        with self._lock:
            return dict(self._digests)
