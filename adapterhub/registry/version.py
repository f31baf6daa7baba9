"""Versions of adapters, and damage of stored files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.refs import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Key in ``info`` of facts that only mean something on this machine; exports leave it out.
LOCAL_KEY = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable version of a named adapter.

    Args:
        name: Name of the adapter, ``part`` or ``owner/part``.
        version: Number from 1 within the name; never reused, not even after removal.
        digest: ``sha256:`` and the sha256 of ``manifest.json`` in hex.
        created: Time of registration, ISO 8601 in UTC.
        task: Name of the task.
        backbone: Name of the backbone that it was trained on.
        fingerprint: Fingerprint of that backbone.
        method: Adapter method, ``lora``, ``prefix``, ``prompt`` or ``ia3``.
        rank: Largest rank of LoRA, or number of virtual tokens; ``None`` in an older index.
        labels: Labels in the order of the head's outputs.
        metrics: Values by metric, ``before`` and ``after`` training.
        size: Total size of the files in bytes; versions may share files.
        parent: Digest of the adapter that it was made from, if any.
        data: Fingerprint of the examples of each split.
        recipe: sha256 of the recipe as canonical JSON; empty if it is unknown.
        tags: Tags, sorted.
        aliases: Aliases that point to it now, sorted.
        info: JSON metadata outside the digest.
    """

    name: str
    version: int
    digest: str
    created: str
    task: str
    backbone: str
    fingerprint: str
    method: str
    rank: int | None
    labels: tuple[str, ...]
    metrics: Mapping[str, Mapping[str, float]] = field(hash=False)
    size: int
    parent: str | None = None
    data: Mapping[str, str] = field(default_factory=dict, hash=False)
    recipe: str = ""
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def ref(self) -> AdapterRef:
        """Reference of exactly this version, such as ``name@3``."""
        return AdapterRef(self.name, version=self.version)


@dataclass(frozen=True, slots=True)
class Problem:
    """Damage that ``verify`` found; ``str`` gives one line.

    Args:
        refs: References of the affected versions; empty for the index itself.
        file: Name of the file in the artifact, or of the index.
        problem: What is wrong with the file.
    """

    refs: tuple[str, ...]
    file: str
    problem: str

    def __str__(self) -> str:
        owners = ", ".join(self.refs)
        return f"{owners}: {self.file} {self.problem}" if owners else f"{self.file} {self.problem}"
