"""What the registry tells about a version, and about damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.refs import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable version of a named adapter.

    Args:
        name: ``part`` or ``owner/part``.
        version: counted from 1 within the name; never given twice, not even after removal.
        digest: ``sha256:`` and 64 hex digits, over the bytes of ``manifest.json``.
        created: when it was registered, ISO 8601 in UTC.
        task: name of the task.
        backbone: name of the backbone that it was trained on.
        fingerprint: of that backbone.
        method: ``lora`` or ``prefix``.
        rank: of LoRA, or the length of a prefix; ``None`` where an older index did not keep it.
        labels: in the order of the head's outputs.
        metrics: ``before`` and ``after`` training, each metric name to value.
        size: bytes of all its files; files may be shared with other versions.
        parent: digest of the adapter that it was made from, if any.
        data: split name to the fingerprint of its rows.
        recipe: sha256 of the recipe as canonical JSON; empty where it is not known.
        tags: words that users gave it, sorted.
        aliases: that point to it now, sorted.
        info: JSON kept beside the version, no part of the digest.
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
        """The reference that names this version only, e.g. ``name@3``."""
        return AdapterRef(self.name, version=self.version)


@dataclass(frozen=True, slots=True)
class Problem:
    """Damage that ``verify`` found; ``str`` gives one line.

    Args:
        refs: the versions that can't be served because of it; empty for the index itself.
        file: name of the file inside the artifact, or of the index.
        problem: what is wrong with it.
    """

    refs: tuple[str, ...]
    file: str
    problem: str

    def __str__(self) -> str:
        owners = ", ".join(self.refs)
        return f"{owners}: {self.file} {self.problem}" if owners else f"{self.file} {self.problem}"
