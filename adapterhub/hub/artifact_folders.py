"""Verified artifact folders by reference, for servers that read peft's files themselves.

Loads neither torch nor peft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adapterhub.errors import NotFoundError
from adapterhub.registry.failures import INDEX_NAME
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from adapterhub.refs import AdapterRef


@dataclass(frozen=True, slots=True)
class ResolvedArtifact:
    """What a reference means now.

    Args:
        ref: Reference without an alias: the name with the whole digest.
        digest: Digest of the artifact.
        proof: Value that changes when the decision on its signatures has to be made again.
    """

    ref: str
    digest: str
    proof: Hashable = None


class ArtifactFolders(Protocol):
    """Resolves references and returns verified folders; safe for use from several threads."""

    def resolve(self, ref: AdapterRef) -> ResolvedArtifact:
        """Resolve a reference to a digest.

        Raises:
            NotFoundError: When there is no such version.
            AdapterHubError: When the source cannot be read.
        """

    def fetch(self, resolved: ResolvedArtifact) -> Path:
        """Return the read-only folder of an artifact after checking every byte and the policy.

        Raises:
            NotFoundError: When the artifact was removed.
            SignatureError: When a signature is required and none by a trusted key is valid.
            AdapterHubError: When it is damaged, or cannot be read.
        """

    def keep(self, digest: str) -> None:
        """Note that an artifact is still in use."""


class RegistryFolders:
    """Artifact folders of a local registry.

    Args:
        registry: Registry, which other processes may change meanwhile.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def resolve(self, ref: AdapterRef) -> ResolvedArtifact:
        """Resolve a reference; see ``ArtifactFolders``."""
        version = self._registry.resolve(ref)
        proof: Hashable = None
        if self._registry.requires_signed():
            proof = (
                self._registry.trusted_keys(),
                self._registry.stored_signatures(version.digest),
            )
        return ResolvedArtifact(f"{version.name}@{version.digest}", version.digest, proof)

    def fetch(self, resolved: ResolvedArtifact) -> Path:
        """Return the folder of an artifact; see ``ArtifactFolders``."""
        return trusted_folder(self._registry, self._registry.resolve(resolved.ref))

    def keep(self, digest: str) -> None:
        """Do nothing: the registry keeps what has a version."""


def open_registry(folder: Path) -> Registry:
    """Open an existing registry by its home folder or by its own folder.

    Raises:
        NotFoundError: When the folder contains no registry.
        RegistryError: When it cannot be opened.
    """
    for home in (folder, folder.parent):
        if (home / "registry" / INDEX_NAME).is_file() and folder in (home, home / "registry"):
            return Registry(home)
    raise NotFoundError(
        "contains no registry",
        place=str(folder),
        hint="Name the folder of ADAPTERHUB_HOME, or the URL of adapterhub hub serve",
    )
