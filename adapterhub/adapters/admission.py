"""Check of an artifact before it is stored: it can be loaded, and nothing in it is unsafe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact_folder import REQUIRED_FILES, WEIGHTS_NAME
from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.adapters.peft_format import ALL_LINEAR, CONFIG_NAME, modules_to_save, spec_of
from adapterhub.adapters.safetensors_header import check_values, read_header
from adapterhub.adapters.strict_json import read_object
from adapterhub.adapters.tensor_checks import check_tensors
from adapterhub.adapters.unsafe_files import check_content
from adapterhub.errors import ArtifactError
from adapterhub.specs import AdapterSpec, LoraSpec, describe_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.adapters.manifest import Manifest
    from adapterhub.adapters.tensor_checks import TensorLike


def check_loadable(folder: Path, manifest: Manifest, place: str) -> None:
    """Require that an artifact can be loaded: its files are parsed and agree with each other.

    No tensor is loaded, and torch is not imported.

    Args:
        folder: Folder with the files of the artifact, whose digests were checked.
        manifest: Its manifest.
        place: Name of the artifact in error messages.

    Raises:
        ArtifactError: Naming the file and what is wrong with it.
    """
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise ArtifactError(f"does not list {name!r}", place=f"{place}/{MANIFEST_NAME}")
    for name in manifest.files:
        check_content(name, folder / name, f"{place}/{name}")
    config = read_object(folder / CONFIG_NAME, f"{place}/{CONFIG_NAME}")
    weights = f"{place}/{WEIGHTS_NAME}"
    tensors = read_header(folder / WEIGHTS_NAME, weights)
    check_agreement(manifest, config, tensors)
    check_values(folder / WEIGHTS_NAME, tensors, weights)


def check_agreement(
    manifest: Manifest, config: Mapping[str, Any], tensors: Mapping[str, TensorLike]
) -> AdapterSpec:
    """Require that manifest, configuration and tensors describe the same adapter.

    Args:
        manifest: Manifest of the artifact.
        config: Parsed ``adapter_config.json``.
        tensors: Tensors, or their types and shapes, by peft's keys.

    Returns:
        The spec.
    """
    spec = spec_of(config)
    if not _same_adapter(manifest.adapter, spec):
        raise ArtifactError(
            f"says {describe_spec(spec)}; {MANIFEST_NAME} says {describe_spec(manifest.adapter)}",
            place=CONFIG_NAME,
        )
    check_tensors(spec, modules_to_save(config), tensors, place=WEIGHTS_NAME)
    return spec


def _same_adapter(requested: AdapterSpec, resolved: AdapterSpec) -> bool:
    """Return whether two specs differ only in how target modules are named and laid out."""
    if not isinstance(requested, LoraSpec) or not isinstance(resolved, LoraSpec):
        return requested == resolved
    names = requested.target_modules
    covered = all(
        any(name in (ALL_LINEAR, target) or target.endswith(f".{name}") for name in names)
        for target in resolved.target_modules
    )
    # peft finds out how a layer lays out its weight, whatever was requested
    same = replace(
        requested,
        target_modules=resolved.target_modules,
        fan_in_fan_out=resolved.fan_in_fan_out,
    )
    return covered and same == resolved
