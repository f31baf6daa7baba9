"""Checks of a server's settings that need neither torch nor the backbone's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.access import open_keys
from adapterhub.backbones.device import check_device
from adapterhub.backbones.fingerprint import (
    full_fingerprint,
    weights_fingerprint,
)
from adapterhub.backbones.folder import read_config, weight_files
from adapterhub.backbones.sources import cached_backbone
from adapterhub.errors import FingerprintMismatch
from adapterhub.http.sockets import bind
from adapterhub.hub.client.address import SCHEME
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from socket import socket

    from adapterhub.server.settings import ServerSettings


def prepare(settings: ServerSettings) -> list[socket]:
    """Check device, backbones, access and adapters; return sockets bound to the address.

    Raises:
        AdapterHubError: If a setting can't be used.
    """
    check_device(settings.device)
    folders = [cached_backbone(name) for name in settings.backbone]
    for folder in folders:
        if folder is not None:
            read_config(folder)
            weight_files(folder)
    registry = Registry()
    Access(open_keys(registry), settings)
    sockets = bind(settings.host, settings.port)
    try:
        _check_adapters(registry, settings, folders)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _check_adapters(
    registry: Registry, settings: ServerSettings, folders: Sequence[Path | None]
) -> None:
    refs = [ref for ref in settings.adapters if not ref.startswith(SCHEME)]
    versions = {ref: registry.resolve(ref) for ref in refs}
    if None in folders or not versions:
        # a backbone that must be downloaded first has no fingerprint yet
        return
    scheme = QuantizationSpec(settings.quantization, "float32")
    known = [folder for folder in folders if folder is not None]
    found = {full_fingerprint(weights_fingerprint(each), scheme): each.name for each in known}
    for ref, version in versions.items():
        if version.fingerprint not in found:
            loaded = {name: fingerprint for fingerprint, name in found.items()}
            only = next(iter(found)) if len(found) == 1 else loaded
            raise FingerprintMismatch(ref, version.fingerprint, only)
