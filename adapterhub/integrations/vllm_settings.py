"""Settings of the vLLM plugin, from the environment, and what they lead to."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from adapterhub.errors import AdapterHubError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.hub.artifact_folders import ArtifactFolders

_LOG = logging.getLogger(__name__)
#: Variables with the registry, the seconds between two looks at it, and the size of the cache.
REGISTRY, POLL, CACHE_SIZE = (
    "ADAPTERHUB_REGISTRY",
    "ADAPTERHUB_POLL_SECONDS",
    "ADAPTERHUB_CACHE_GB",
)


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of the plugin.

    Args:
        registry: Folder of a registry, or URL of a Hub with the owner of names without one.
        poll_seconds: Seconds between two looks at what the names in use mean.
        cache_bytes: Largest size of what is downloaded from a Hub.
    """

    registry: str
    poll_seconds: float = 2.0
    cache_bytes: int = 10 * 1024**3

    @property
    def is_url(self) -> bool:
        """Whether the registry is a Hub."""
        return self.registry.startswith(("http://", "https://"))


def read_settings(environment: Mapping[str, str] = os.environ) -> PluginSettings | None:
    """Read the settings; ``None`` without a registry.

    Raises:
        SettingsError: Naming the variable.
    """
    registry = environment.get(REGISTRY, "")
    if not registry:
        return None
    return PluginSettings(
        registry,
        _number(environment, POLL, 2.0, smallest=0.05),
        int(_number(environment, CACHE_SIZE, 10.0, smallest=0.001) * 1024**3),
    )


def open_folders(settings: PluginSettings) -> ArtifactFolders:
    """Open the registry or the Hub that the settings name.

    Raises:
        NotFoundError: When a folder contains no registry.
        RegistryError: When the registry cannot be opened.
    """
    if not settings.is_url:
        from adapterhub.hub.artifact_folders import RegistryFolders, open_registry

        return RegistryFolders(open_registry(Path(settings.registry).expanduser().absolute()))
    from huggingface_hub import HfApi

    from adapterhub.backbones.folder import cache_root, default_root
    from adapterhub.hub.hub_folders import HubFolders
    from adapterhub.registry.registry import Registry

    # trust is this machine's, not that of the Hub that the signatures come from
    home = Registry(default_root())
    parts = urlsplit(settings.registry)
    return HubFolders(
        HfApi(endpoint=urlunsplit((parts.scheme, parts.netloc, "", "", ""))),
        cache_root() / "artifacts",
        owner=parts.path.strip("/"),
        max_bytes=settings.cache_bytes,
        trust=lambda: home.trusted_keys() if home.requires_signed() else None,
    )


def served_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder of the model that vLLM serves, or ``None`` if it is not on this machine."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        _LOG.info("%s: its folder is unknown: %s", model, error)
        return None


def served_weights(folder: Path) -> str | None:
    """Return the fingerprint of a model's weights, or ``None`` if they have none."""
    from adapterhub.backbones.fingerprint import weights_fingerprint

    try:
        return weights_fingerprint(folder)
    except AdapterHubError as error:
        _LOG.warning("adapters are compared with the model by its name alone: %s", error)
        return None


def _number(environment: Mapping[str, str], name: str, default: float, *, smallest: float) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not smallest <= value < float("inf"):
        raise SettingsError(
            f"must be a number of at least {smallest:g}, found {text[:40]!r}", place=name
        )
    return value
