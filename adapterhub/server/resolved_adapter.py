"""An adapter of a request, resolved to its digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from adapterhub.registry.version import Version


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """An adapter that a name was resolved to.

    Args:
        ref: Reference, as requested.
        name: Name without a version.
        digest: Digest of the artifact.
        fingerprint: Fingerprint of its backbone.
        task: Task that it was trained for; empty if unknown.
        labels: Labels of its head.
        weight: Weight in a blend.
    """

    ref: str
    name: str
    digest: str
    fingerprint: str
    task: str = ""
    labels: tuple[str, ...] = ()
    weight: float = 1.0

    @classmethod
    def of(cls, version: Version, ref: str = "", weight: float = 1.0) -> Self:
        """Return a version of the registry; ``ref`` is its own reference if empty."""
        ref = ref or str(version.ref)
        return cls(
            ref,
            version.name,
            version.digest,
            version.fingerprint,
            version.task,
            version.labels,
            weight,
        )
