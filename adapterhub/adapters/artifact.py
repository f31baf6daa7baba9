"""Artifacts: adapters written to and read from a folder in peft's layout.

``PeftModel.from_pretrained`` loads the folder unchanged. The digest of an artifact is that of its
``manifest.json``, which holds the digest of every other file.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from adapterhub.adapters.admission import check_agreement
from adapterhub.adapters.artifact_folder import (
    CARD_NAME,
    REQUIRED_FILES,
    WEIGHTS_NAME,
    check_listing,
    check_peft_files,
    list_files,
    read_file,
    read_verified,
    require_free,
    write_folder,
)
from adapterhub.adapters.explicit_targets import with_explicit_targets
from adapterhub.adapters.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST,
    FileEntry,
    Manifest,
    check_file_name,
    digest_of,
)
from adapterhub.adapters.mapped_tensors import map_tensors
from adapterhub.adapters.peft_format import (
    CONFIG_NAME,
    metadata_of,
    modules_to_save,
    spec_of,
)
from adapterhub.adapters.safetensors_header import parse_header
from adapterhub.adapters.strict_json import parse_object, read_object
from adapterhub.adapters.tensor_checks import check_tensors
from adapterhub.adapters.tensor_values import check_finite
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from adapterhub.specs import AdapterSpec

#: Default limit on the size of an artifact in bytes; it is read into memory.
MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """An adapter as read from its folder.

    Args:
        digest: ``sha256:`` and 64 hex digits, over the bytes of ``manifest.json``.
    """

    manifest: Manifest
    adapter_config: Mapping[str, Any]
    weights: AdapterWeights
    digest: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class PeftFolder:
    """An adapter that peft saved, without a manifest.

    Args:
        base_model: Hub id or path of the backbone, where the configuration names it.
        revision: Revision of the backbone, where the configuration names it.
        task_type: peft's name of the task, where the configuration names it.
    """

    adapter_config: Mapping[str, Any]
    weights: AdapterWeights
    base_model: str | None
    revision: str | None
    task_type: str | None
    path: Path


def write_artifact(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor],
    adapter_config: Mapping[str, Any],
    manifest: Manifest,
    card: str,
    extra_files: Mapping[str, bytes] | None = None,
) -> str:
    """Write an artifact atomically and return its digest; equal arguments give equal bytes.

    Args:
        folder: Folder that does not exist or is empty; its parents are created.
        tensors: peft's key to tensor, on any device.
        adapter_config: Result of ``peft_format.config_document``.
        manifest: Description of the adapter; its ``files`` are filled in here.
        extra_files: Name to content of further files, such as a plot.
    """
    require_free(folder)
    _checked_spec(manifest, adapter_config, tensors)
    contents = dict(extra_files or {})
    for name in contents:
        check_file_name(name, str(folder))
        if name in REQUIRED_FILES:
            raise ArtifactError(f"{name!r} is written by the artifact itself", place=str(folder))
    contents[CONFIG_NAME] = _config_bytes(adapter_config)
    contents[WEIGHTS_NAME] = tensor_bytes(tensors)
    contents[CARD_NAME] = card.encode("utf-8")
    entries = {name: _entry(content) for name, content in contents.items()}
    manifest_bytes = replace(manifest, files=entries).to_json()
    write_folder(folder, {**contents, MANIFEST_NAME: manifest_bytes})
    return digest_of(manifest_bytes)


def write_annotated(
    source: Path,
    target: Path,
    *,
    files: Mapping[str, bytes],
    section: str,
    parent: str | None = None,
) -> str:
    """Write a copy of an artifact with more files and a longer card, and return its digest.

    Equal arguments give equal bytes.

    Args:
        target: Folder of the copy, which is replaced.
        files: Name to content of further files.
        section: Markdown appended to the card.
        parent: Digest of the parent adapter; that of ``source`` where ``None``.
    """
    artifact = read_artifact(source)
    manifest = artifact.manifest
    kept = {
        name: (source / name).read_bytes() for name in manifest.files if name not in REQUIRED_FILES
    }
    card = (source / CARD_NAME).read_text(encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    return write_artifact(
        target,
        tensors=artifact.weights.tensors,
        adapter_config=artifact.adapter_config,
        manifest=replace(manifest, files={}, parent=parent or manifest.parent),
        card=f"{card}\n{section}",
        extra_files={**kept, **files},
    )


def read_artifact(folder: Path, *, verify: bool = True, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read an artifact without executing anything in the folder.

    Args:
        verify: Compare the digest of every file; sizes and names are always compared.
    """
    manifest, digest = _read_manifest(folder, max_bytes)
    if verify:
        contents = read_verified(folder, manifest)
    else:
        contents = {name: read_file(folder, name) for name in (CONFIG_NAME, WEIGHTS_NAME)}
    config = parse_object(contents[CONFIG_NAME], f"{folder}/{CONFIG_NAME}")
    tensors = _parse_tensors(contents[WEIGHTS_NAME], f"{folder}/{WEIGHTS_NAME}")
    spec = _checked_spec(manifest, config, tensors)
    return Artifact(manifest, config, AdapterWeights(spec, tensors), digest, folder)


def map_artifact(folder: Path, *, values: bool = True, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read an artifact that was verified before, with memory-mapped tensors.

    Tensors are read from the file on first use; see ``map_tensors``.

    Args:
        values: Check for NaN and infinity, which reads every value; names, sizes, types and
            shapes are always checked.
    """
    manifest, digest = _read_manifest(folder, max_bytes)
    config = read_object(folder / CONFIG_NAME)
    tensors = map_tensors(folder / WEIGHTS_NAME)
    spec = _checked_spec(manifest, config, tensors, values=values)
    return Artifact(manifest, config, AdapterWeights(spec, tensors), digest, folder)


def read_peft_folder(folder: Path, *, max_bytes: int = MAX_BYTES) -> PeftFolder:
    """Read an adapter that peft saved, of a method that is served as it is."""
    return as_peft_folder(folder, *read_peft_files(folder, max_bytes=max_bytes))


def read_peft_files(
    folder: Path, *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read configuration and tensors of an adapter that peft saved, of any method.

    Other files of the folder (tokenizer, card) are ignored; pickles are errors.
    """
    check_peft_files(folder, max_bytes)
    config = read_object(folder / CONFIG_NAME)
    return config, _parse_tensors(read_file(folder, WEIGHTS_NAME), f"{folder}/{WEIGHTS_NAME}")


def as_peft_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> PeftFolder:
    """Check configuration and tensors of an adapter against each other.

    Target modules that the configuration gives by a pattern are listed as in the tensors.
    """
    config = dict(with_explicit_targets(config, tensors))
    spec = spec_of(config)
    place = f"{folder}/{WEIGHTS_NAME}"
    check_tensors(spec, modules_to_save(config), tensors, place=place)
    check_finite(tensors, place)
    metadata = metadata_of(config)
    return PeftFolder(
        adapter_config=config,
        weights=AdapterWeights(spec, tensors),
        base_model=metadata.base_model_name_or_path,
        revision=metadata.revision,
        task_type=metadata.task_type,
        path=folder,
    )


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the safetensors file of ``tensors``, whatever the order of the mapping."""
    # clones, because safetensors rejects tensors that share memory
    copies = {
        key: tensors[key].detach().to("cpu", copy=True).contiguous() for key in sorted(tensors)
    }
    content: bytes = safetensors.torch.save(copies, metadata={"format": "pt"})
    return content


def _read_manifest(folder: Path, max_bytes: int) -> tuple[Manifest, str]:
    """Return the manifest and its digest, with names and sizes of all files checked."""
    sizes = list_files(folder, max_bytes)
    if MANIFEST_NAME not in sizes:
        raise ArtifactError(
            f"has no {MANIFEST_NAME}",
            place=str(folder),
            hint="Import it with adapterhub import-peft" if CONFIG_NAME in sizes else "",
        )
    content = read_file(folder, MANIFEST_NAME, limit=MAX_MANIFEST)
    manifest = Manifest.from_json(content)
    check_listing(folder, manifest, sizes)
    return manifest, digest_of(content)


def _checked_spec(
    manifest: Manifest,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    values: bool = True,
) -> AdapterSpec:
    """Require that manifest, configuration and tensors describe the same adapter."""
    spec = check_agreement(manifest, config, tensors)
    if values:
        check_finite(tensors, WEIGHTS_NAME)
    return spec


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(config, sort_keys=True, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"cannot be written: {error}", place=CONFIG_NAME) from error
    return (text + "\n").encode("utf-8")


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=sha256(content).hexdigest(), size=len(content))


def _parse_tensors(content: bytes, place: str) -> dict[str, Tensor]:
    parse_header(content, place)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"is not a safetensors file: {error}", place=place) from error
    return tensors
