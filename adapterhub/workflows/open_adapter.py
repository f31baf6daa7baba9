"""Load a registered adapter on its backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.local_folders import known_folder
from adapterhub.backbones.quantize import supported_compute_dtype
from adapterhub.backbones.sources import cached_backbone
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import ArtifactError, BackboneError
from adapterhub.registry.policy import trusted_folder
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.specs import ComputeDtype


def open_adapter(
    registry: Registry,
    ref: str,
    *,
    force: bool = False,
    device: str | None = None,
    backbone: str | None = None,
    compute_dtype: ComputeDtype | None = None,
) -> tuple[LoadedAdapter, Version]:
    """Load a registered adapter on the backbone that it was trained on, or on the one named.

    ``force`` accepts a backbone with another fingerprint.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a stored byte has changed.
        SignatureError: when the registry requires a trusted signature and there is none.
        FingerprintMismatch: when the backbone is another one.
        StrictLoadError: when the tensors do not fit.
        NoEffectError: when the adapter does not change the output.
    """
    version = registry.resolve(ref)
    artifact = read_artifact(trusted_folder(registry, version))
    local = open_engine(artifact, device=device, backbone=backbone, compute_dtype=compute_dtype)
    return local.load(artifact, name=str(version.ref), force=force), version


def open_engine(
    artifact: Artifact,
    *,
    device: str | None = None,
    backbone: str | None = None,
    compute_dtype: ComputeDtype | None = None,
) -> LocalEngine:
    """Return an engine on the backbone of an artifact, without adapters; see ``open_adapter``."""
    return LocalEngine(
        open_backbone_of(artifact, device=device, backbone=backbone, compute_dtype=compute_dtype)
    )


def open_backbone_of(
    artifact: Artifact,
    *,
    device: str | None = None,
    backbone: str | None = None,
    compute_dtype: ComputeDtype | None = None,
) -> Backbone:
    """Load the backbone of an artifact; see ``open_adapter``."""
    manifest = artifact.manifest
    place = choose_device(device)
    spec = QuantizationSpec(
        manifest.quantization.scheme,
        supported_compute_dtype(compute_dtype or manifest.quantization.compute_dtype, place),
    )
    if backbone:
        return load_backbone(backbone, spec, device=place)
    name, revision = _backbone_of(artifact)
    folder = known_folder(manifest.backbone.fingerprint)
    if folder is not None and not _is_here(name, revision):
        # the same backbone, as the user named it for an adapter of it
        return load_backbone(str(folder), spec, device=place)
    return load_backbone(name, spec, revision=revision, device=place)


def _is_here(name: str, revision: str | None) -> bool:
    try:
        return cached_backbone(name, revision=revision) is not None
    except BackboneError:
        return False


def _backbone_of(artifact: Artifact) -> tuple[str, str | None]:
    """Return name and revision of the backbone in the recipe of an artifact."""
    section = artifact.manifest.recipe.get("backbone")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise ArtifactError(
            "names no backbone in its recipe",
            place=f"{artifact.path}/{MANIFEST_NAME}: recipe.backbone",
            hint="Name it with --backbone",
        )
    return section["name"], section.get("revision")
