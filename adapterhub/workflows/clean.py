"""Store an adapter again without the paths of the machine that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_artifact, write_artifact
from adapterhub.adapters.artifact_folder import CARD_NAME, REQUIRED_FILES
from adapterhub.adapters.local_paths import (
    clean_text,
    is_text_file,
    replacements,
    without_local_paths,
)
from adapterhub.adapters.strict_json import canonical_json, parse_object
from adapterhub.backbones.local_folders import remember_folder
from adapterhub.registry.policy import trusted_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.manifest import Manifest
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version


def clean(registry: Registry, ref: str) -> Version:
    """Store a version again without local paths, as the next version of its name.

    A backbone that is named by its folder is named by its fingerprint, and its folder is recorded
    for use on this machine. Tensors and metrics are those of the version. Signatures are not kept,
    since they are for other bytes.

    Returns:
        The new version, or the given one if it has no local paths.

    Raises:
        NotFoundError: When there is no such version.
    """
    version = registry.resolve(ref)
    artifact = read_artifact(trusted_folder(registry, version))
    manifest = artifact.manifest
    replaced = replacements(manifest, artifact.adapter_config)
    if Path(manifest.backbone.name).is_dir():
        remember_folder(manifest.backbone.fingerprint, Path(manifest.backbone.name))
    with registry.staging() as staging:
        target = staging / "clean"
        digest = write_artifact(
            target,
            tensors=artifact.weights.tensors,
            adapter_config=without_local_paths(dict(artifact.adapter_config), replaced),
            manifest=_without_paths(manifest, replaced),
            card=clean_text((artifact.path / CARD_NAME).read_text(encoding="utf-8"), replaced),
            extra_files=_extra_files(artifact, replaced),
        )
        if digest == version.digest:
            return version
        return registry.put(target, version.name, info=version.info, tags=version.tags)


def _without_paths(manifest: Manifest, replaced: Mapping[str, str]) -> Manifest:
    name = manifest.backbone.name
    recipe: dict[str, Any] = without_local_paths({"recipe": dict(manifest.recipe)}, replaced)
    origins = {split: each.origin for split, each in manifest.data.items()}
    cleaned = without_local_paths({"data": origins}, replaced)["data"]
    return replace(
        manifest,
        files={},
        backbone=replace(manifest.backbone, name=replaced.get(name, name)),
        recipe=recipe["recipe"],
        data={split: replace(each, origin=cleaned[split]) for split, each in manifest.data.items()},
    )


def _extra_files(artifact: Artifact, replaced: Mapping[str, str]) -> dict[str, bytes]:
    paths = [artifact.path / name for name in artifact.manifest.files if name not in REQUIRED_FILES]
    return {path.name: _cleaned(path, replaced) for path in paths}


def _cleaned(path: Path, replaced: Mapping[str, str]) -> bytes:
    content = path.read_bytes()
    if not is_text_file(path):
        return content
    if path.suffix.lower() == ".json":
        document = without_local_paths(parse_object(content, path.name), replaced)
        return canonical_json(document, path.name)
    return clean_text(content.decode("utf-8", "replace"), replaced).encode("utf-8")
