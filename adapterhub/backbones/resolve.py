"""Resolution of the backbone that an adapter was trained on, from the adapter's files alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.backbones.catalog import find_entry, load_catalog
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.local_folders import remember_folder
from adapterhub.backbones.sources import cached_backbone, fetch_backbone, is_hub_id, locate
from adapterhub.errors import BackboneError, FingerprintMismatch, did_you_mean

if TYPE_CHECKING:
    from adapterhub.adapters.manifest import Manifest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Default branches; they move, so they pin no revision.
_DEFAULT_BRANCHES = frozenset({"main", "master"})


@dataclass(frozen=True, slots=True)
class ResolvedBackbone:
    """The backbone of an adapter.

    Args:
        certain: Whether the adapter itself names it, not only the user.
    """

    name: str
    hub_id: str | None
    revision: str | None
    license: str | None
    certain: bool


def resolve_base_model(
    base_model: str | None, revision: str | None, requested: str | None, *, place: str
) -> ResolvedBackbone:
    """Return the backbone of an adapter without downloading anything.

    Args:
        base_model: ``base_model_name_or_path`` of the adapter's configuration. A local path of the
            machine where it was trained identifies nothing.
    """
    declared = _declared(base_model, requested)
    if requested is None:
        if declared is None:
            found = f"{base_model!r}, which is no Hub id" if base_model else "missing"
            raise BackboneError(
                f"base_model_name_or_path of its configuration is {found}",
                place=place,
                hint=f"Name the backbone with --backbone. {did_you_mean('', load_catalog())}",
            )
        return _resolve_name(declared, revision, certain=True)
    if isinstance(locate(requested), Path):
        return ResolvedBackbone(requested, None, None, None, certain=False)
    resolved = _resolve_name(
        requested, None if declared is None else revision, certain=declared is not None
    )
    if declared and _resolve_name(declared, None, certain=True).hub_id != resolved.hub_id:
        raise BackboneError(
            f"it was trained on {declared!r}; {requested!r} is another backbone "
            f"({resolved.hub_id})",
            place=place,
            hint=f"Omit --backbone, or give a folder that contains {declared!r}",
        )
    return resolved


def check_manifest_backbone(manifest: Manifest, base_model: str | None, *, place: str) -> None:
    """Check the backbone in an artifact's manifest against its configuration and the local cache.

    The fingerprint is compared if the backbone is cached, otherwise when the adapter is loaded.
    """
    backbone = manifest.backbone
    if backbone.hub_id is None or not _is_hub_id(backbone.hub_id):
        return
    if base_model and _is_hub_id(base_model) and base_model.lower() != backbone.hub_id.lower():
        raise BackboneError(
            f"its manifest names the backbone {backbone.hub_id!r}, "
            f"its configuration {base_model!r}",
            place=place,
            hint="One of them is wrong; its owner has to publish it again",
        )
    folder = cached_backbone(backbone.hub_id, revision=backbone.revision)
    if folder is None:
        return
    found = full_fingerprint(weights_fingerprint(folder), manifest.quantization)
    if found != backbone.fingerprint:
        raise FingerprintMismatch(place, backbone.fingerprint, found)


def use_backbone(manifest: Manifest, name: str, *, place: str, force: bool = False) -> None:
    """Record the folder of the backbone that a user names for an artifact.

    Adapters of this backbone are loaded on it where the name in their recipe is not known here.

    Args:
        manifest: Manifest of the artifact.
        name: Catalog name, Hub id or folder; fetched if it is missing.
        place: Name of the artifact in error messages.
        force: Whether to accept a backbone with another fingerprint.

    Raises:
        BackboneError: When it cannot be found or fetched.
        FingerprintMismatch: When it is another backbone.
    """
    folder = fetch_backbone(name)
    found = full_fingerprint(weights_fingerprint(folder), manifest.quantization)
    if found != manifest.backbone.fingerprint and not force:
        raise FingerprintMismatch(place, manifest.backbone.fingerprint, found)
    remember_folder(manifest.backbone.fingerprint, folder)


def public_match(match: ResolvedBackbone, folder: Path, fingerprint: str) -> ResolvedBackbone:
    """Return the backbone of an adapter with a name that identifies it elsewhere too.

    A local folder is named by its fingerprint, and recorded for use on this machine.
    """
    if match.hub_id is not None or not isinstance(locate(match.name), Path):
        return match
    remember_folder(fingerprint, folder)
    return replace(match, name=fingerprint)


def _declared(base_model: str | None, requested: str | None) -> str | None:
    """Return the Hub id in an adapter's configuration.

    A name without owner is one only where nothing else is named: it may as well be a folder of the
    machine where the adapter was trained.
    """
    if not base_model:
        return None
    if requested is None and "/" not in base_model and is_hub_id(base_model):
        return base_model
    return base_model if _is_hub_id(base_model) else None


def _resolve_name(name: str, revision: str | None, *, certain: bool) -> ResolvedBackbone:
    entry = find_entry(name)
    pinned = None if revision in _DEFAULT_BRANCHES else revision
    if entry is None:
        return ResolvedBackbone(name, name, pinned, None, certain)
    return ResolvedBackbone(
        entry.name, entry.hub_id, pinned or entry.revision, entry.license, certain
    )


def _is_hub_id(text: str) -> bool:
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text
