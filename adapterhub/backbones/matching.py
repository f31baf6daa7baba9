"""Which backbone an adapter of others was trained on, from what its files say alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.backbones.catalog import CatalogEntry, find_entry, load_catalog
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.sources import cached_backbone, locate
from adapterhub.errors import BackboneError, FingerprintMismatch, did_you_mean

if TYPE_CHECKING:
    from adapterhub.adapters.manifest import Manifest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Branches that move; naming one says no more than naming none.
_MOVING = frozenset({"main", "master"})


@dataclass(frozen=True, slots=True)
class BackboneMatch:
    """The backbone that an adapter goes on.

    Args:
        name: to load it by.
        hub_id: ``owner/name`` on the Hub, if known.
        revision: on the Hub, if known.
        license: the Hub's identifier, if known.
        certain: whether the adapter itself names it; otherwise the user did.
    """

    name: str
    hub_id: str | None
    revision: str | None
    license: str | None
    certain: bool


def match_backbone(
    base_model: str | None, revision: str | None, asked: str | None, *, place: str
) -> BackboneMatch:
    """Return the backbone for an adapter; nothing is fetched.

    Args:
        base_model: as the adapter's configuration names it: a Hub id, or the path of a folder
            on the machine where it was trained, which tells nothing.
        revision: of the backbone, as the configuration names it.
        asked: as the user names it: of the catalog, a Hub id or a folder.
        place: the adapter, for messages.

    Raises:
        BackboneError: when neither names one, or they name different ones.
    """
    named = base_model if base_model and _is_hub_id(base_model) else None
    if asked is None:
        if named is None:
            said = f"names {base_model!r}" if base_model else "does not name"
            raise BackboneError(
                f"its configuration {said}{' as' if base_model else ''} its backbone, "
                "which is no Hub id",
                place=place,
                hint=f"Say which it is with --backbone. {did_you_mean('', load_catalog())}",
            )
        return _of_name(named, revision, certain=True)
    found = locate(asked)
    if isinstance(found, Path):
        return BackboneMatch(asked, None, None, None, certain=False)
    match = _of_name(asked, None if named is None else revision, certain=named is not None)
    if named is not None and _of_name(named, None, certain=True).hub_id != match.hub_id:
        raise BackboneError(
            f"it was trained on {named!r}, {asked!r} is another backbone ({match.hub_id})",
            place=place,
            hint=f"Leave --backbone away, or give a folder that holds {named!r}",
        )
    return match


def check_manifest_backbone(manifest: Manifest, base_model: str | None, *, place: str) -> None:
    """Compare what an artifact says of its backbone with what is known here.

    The fingerprint is compared where the backbone was fetched before; otherwise that is done
    when the adapter is loaded.

    Args:
        manifest: of the artifact.
        base_model: as its ``adapter_config.json`` names the backbone.
        place: the adapter, for messages.

    Raises:
        BackboneError: when manifest and configuration name different backbones.
        FingerprintMismatch: when the backbone of this name has another fingerprint here.
    """
    backbone = manifest.backbone
    if backbone.hub_id is None or not _is_hub_id(backbone.hub_id):
        return
    if base_model and _is_hub_id(base_model) and base_model.lower() != backbone.hub_id.lower():
        raise BackboneError(
            f"its manifest names the backbone {backbone.hub_id!r}, "
            f"its configuration {base_model!r}",
            place=place,
            hint="One of the two is wrong; ask its owner to publish it again",
        )
    folder = cached_backbone(backbone.hub_id, revision=backbone.revision)
    if folder is None:
        return
    found = full_fingerprint(weights_fingerprint(folder), manifest.quantization)
    if found != backbone.fingerprint:
        raise FingerprintMismatch(place, backbone.fingerprint, found)


def _of_name(name: str, revision: str | None, *, certain: bool) -> BackboneMatch:
    entry = find_entry(name)
    wanted = None if revision in _MOVING else revision
    if isinstance(entry, CatalogEntry):
        return BackboneMatch(
            entry.name, entry.hub_id, wanted or entry.revision, entry.license, certain
        )
    return BackboneMatch(name, name, wanted, None, certain)


def _is_hub_id(text: str) -> bool:
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text
