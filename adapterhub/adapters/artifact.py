"""The artifact folder: written at once or not at all, and read with every byte accounted for.

The folder is in peft's own layout, so ``PeftModel.from_pretrained`` loads it unchanged. The
digest of an artifact is that of its ``manifest.json``, which holds the digest of every other
file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from adapterhub.adapters.atomic_folder import require_free, write_folder
from adapterhub.adapters.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    check_file_name,
    reject_pickle,
)
from adapterhub.adapters.mapped_tensors import map_tensors
from adapterhub.adapters.peft_format import (
    ALL_LINEAR,
    CONFIG_NAME,
    metadata_of,
    modules_to_save,
    spec_of,
    with_explicit_targets,
)
from adapterhub.adapters.strict_json import parse_object
from adapterhub.adapters.tensor_checks import check_tensors
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.errors import ArtifactError
from adapterhub.specs import AdapterSpec, LoraSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME = "README.md"
REQUIRED_FILES: tuple[str, ...] = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
#: Largest artifact that is read by default, in bytes; it is read into memory.
MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A whole adapter as read from its folder.

    Args:
        manifest: what it is.
        adapter_config: peft's configuration as parsed.
        weights: spec and tensors.
        digest: ``sha256:`` and 64 hex digits, over the bytes of ``manifest.json``.
        path: the folder.
    """

    manifest: Manifest
    adapter_config: Mapping[str, Any]
    weights: AdapterWeights
    digest: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class PeftFolder:
    """An adapter that peft saved, with no manifest.

    Args:
        adapter_config: peft's configuration, its target modules listed.
        weights: spec and tensors.
        base_model: Hub id or path of the backbone, where the configuration names it.
        revision: of the backbone, where the configuration names it.
        task_type: peft's name of the task, where the configuration names it.
        path: the folder.
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
    """Write an artifact that appears whole or not at all; equal arguments give equal bytes.

    Args:
        folder: must not exist, or be empty; its parent is made where needed.
        tensors: peft's key to tensor, on any device.
        adapter_config: as ``peft_format.config_document`` gives it.
        manifest: its ``files`` are filled in here.
        card: the text of ``README.md``.
        extra_files: name to content, such as a plot.

    Returns:
        The digest.

    Raises:
        ArtifactError: when the parts disagree, or the folder holds something.
    """
    require_free(folder)
    _check_agreement(manifest, adapter_config, tensors)
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


def read_artifact(folder: Path, *, verify: bool = True, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read an artifact; nothing in the folder is executed.

    Args:
        folder: the artifact.
        verify: compare the digest of every file; sizes and names are always compared.
        max_bytes: largest sum of file sizes that is read.

    Raises:
        ArtifactError: naming the file or tensor that is wrong.
    """
    sizes = _list_files(folder, max_bytes)
    if MANIFEST_NAME not in sizes:
        raise ArtifactError(
            f"has no {MANIFEST_NAME}",
            place=str(folder),
            hint="It is no artifact of adapterhub" if CONFIG_NAME in sizes else "",
        )
    manifest_bytes = _read(folder, MANIFEST_NAME)
    manifest = Manifest.from_json(manifest_bytes)
    _check_listing(folder, manifest, sizes)
    contents = _read_listed(folder, manifest, verify=verify)
    config = parse_object(contents[CONFIG_NAME], f"{folder}/{CONFIG_NAME}")
    tensors = _parse_tensors(contents[WEIGHTS_NAME], f"{folder}/{WEIGHTS_NAME}")
    spec = _check_agreement(manifest, config, tensors)
    weights = AdapterWeights(spec, tensors)
    return Artifact(manifest, config, weights, digest_of(manifest_bytes), folder)


def map_artifact(folder: Path, *, values: bool = True, max_bytes: int = MAX_BYTES) -> Artifact:
    """Read an artifact whose digests were compared already, its tensors mapped into memory.

    They are read from the file when they are used; see ``map_tensors``.

    Args:
        folder: the artifact, as ``Registry.materialize`` returns it.
        values: look for NaN and infinity, which reads every value; names, sizes, types and
            shapes are always checked.
        max_bytes: largest sum of file sizes that is mapped.

    Raises:
        ArtifactError: naming the file or tensor that is wrong.
    """
    sizes = _list_files(folder, max_bytes)
    manifest_bytes = _read(folder, MANIFEST_NAME)
    manifest = Manifest.from_json(manifest_bytes)
    _check_listing(folder, manifest, sizes)
    config = parse_object(_read(folder, CONFIG_NAME), f"{folder}/{CONFIG_NAME}")
    tensors = map_tensors(folder / WEIGHTS_NAME)
    spec = _check_agreement(manifest, config, tensors, values=values)
    weights = AdapterWeights(spec, tensors)
    return Artifact(manifest, config, weights, digest_of(manifest_bytes), folder)


def read_peft_folder(folder: Path, *, max_bytes: int = MAX_BYTES) -> PeftFolder:
    """Read an adapter that peft saved; what its configuration does not say is ``None``.

    Target modules that the configuration gives by a pattern are listed as the tensors have them.
    Other files of the folder (tokenizer, card) are left alone; pickles are refused.

    Raises:
        ArtifactError: naming the file or tensor that is wrong.
    """
    _list_peft_files(folder, max_bytes)
    config = parse_object(_read(folder, CONFIG_NAME), f"{folder}/{CONFIG_NAME}")
    tensors = _parse_tensors(_read(folder, WEIGHTS_NAME), f"{folder}/{WEIGHTS_NAME}")
    config = dict(with_explicit_targets(config, tensors))
    spec = spec_of(config)
    check_tensors(spec, modules_to_save(config), tensors, place=f"{folder}/{WEIGHTS_NAME}")
    metadata = metadata_of(config)
    return PeftFolder(
        adapter_config=config,
        weights=AdapterWeights(spec, tensors),
        base_model=metadata.base_model_name_or_path,
        revision=metadata.revision,
        task_type=metadata.task_type,
        path=folder,
    )


def digest_of(manifest_bytes: bytes) -> str:
    """Return the digest that names the artifact with this ``manifest.json``."""
    return f"sha256:{sha256(manifest_bytes).hexdigest()}"


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the safetensors file of ``tensors``; the order of the mapping does not matter."""
    # clones, because safetensors refuses tensors that share memory
    copies = {
        key: tensors[key].detach().to("cpu", copy=True).contiguous() for key in sorted(tensors)
    }
    content: bytes = safetensors.torch.save(copies, metadata={"format": "pt"})
    return content


def _check_agreement(
    manifest: Manifest,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    values: bool = True,
) -> AdapterSpec:
    spec = spec_of(config)
    if not _same_adapter(manifest.adapter, spec):
        raise ArtifactError(
            f"says {spec}, {MANIFEST_NAME} says {manifest.adapter}", place=CONFIG_NAME
        )
    check_tensors(spec, modules_to_save(config), tensors, place=WEIGHTS_NAME, values=values)
    return spec


def _same_adapter(asked: AdapterSpec, resolved: AdapterSpec) -> bool:
    if not isinstance(asked, LoraSpec) or not isinstance(resolved, LoraSpec):
        return asked == resolved
    asked_names = asked.target_modules
    meant = all(
        any(name in (ALL_LINEAR, target) or target.endswith(f".{name}") for name in asked_names)
        for target in resolved.target_modules
    )
    return meant and replace(asked, target_modules=resolved.target_modules) == resolved


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(config, sort_keys=True, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"cannot be written: {error}", place=CONFIG_NAME) from error
    return (text + "\n").encode("utf-8")


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=sha256(content).hexdigest(), size=len(content))


def _parse_tensors(content: bytes, place: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"is not a safetensors file: {error}", place=place) from error
    return tensors


def _list_files(folder: Path, max_bytes: int) -> dict[str, int]:
    """Return the size in bytes of each file of an artifact, having refused all else."""
    sizes: dict[str, int] = {}
    for entry in _scan(folder):
        if not entry.is_file(follow_symlinks=False):
            raise _not_plain(entry, folder)
        if entry.name != MANIFEST_NAME:
            check_file_name(entry.name, str(folder))
        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    _check_size(folder, sizes, max_bytes)
    return sizes


def _list_peft_files(folder: Path, max_bytes: int) -> None:
    """Require plain files for configuration and tensors, and no pickle beside them."""
    entries = {entry.name: entry for entry in _scan(folder)}
    for name in entries:
        reject_pickle(name, str(folder))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if name not in entries:
            raise ArtifactError(f"has no {name}", place=str(folder))
        if not entries[name].is_file(follow_symlinks=False):
            raise _not_plain(entries[name], folder)
    needed = (entries[CONFIG_NAME], entries[WEIGHTS_NAME])
    _check_size(folder, {entry.name: entry.stat().st_size for entry in needed}, max_bytes)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=str(folder)) from error


def _not_plain(entry: os.DirEntry[str], folder: Path) -> ArtifactError:
    kind = "a link" if entry.is_symlink() else "not a plain file"
    return ArtifactError(f"{entry.name!r} is {kind}", place=str(folder))


def _check_size(folder: Path, sizes: Mapping[str, int], max_bytes: int) -> None:
    if (total := sum(sizes.values())) > max_bytes:
        raise ArtifactError(f"holds {total} bytes, the limit is {max_bytes}", place=str(folder))


def _check_listing(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    listed = manifest.files.keys()
    for name in REQUIRED_FILES:
        if name not in listed:
            raise ArtifactError(f"does not list {name!r}", place=f"{folder}/{MANIFEST_NAME}")
    for name in sorted(listed - sizes.keys()):
        raise ArtifactError(f"{name!r} is listed and missing", place=str(folder))
    for name in sorted(sizes.keys() - listed - {MANIFEST_NAME}):
        raise ArtifactError(f"{name!r} is not listed in {MANIFEST_NAME}", place=str(folder))
    for name in sorted(listed):
        if sizes[name] != manifest.files[name].size:
            raise ArtifactError(
                f"has {sizes[name]} bytes, {MANIFEST_NAME} says {manifest.files[name].size}",
                place=f"{folder}/{name}",
            )


def _read_listed(folder: Path, manifest: Manifest, *, verify: bool) -> dict[str, bytes]:
    """Read files once, so that what is checked is what is parsed."""
    names = tuple(sorted(manifest.files)) if verify else REQUIRED_FILES
    contents = {name: _read(folder, name) for name in names}
    for name in names if verify else ():
        if (found := sha256(contents[name]).hexdigest()) != manifest.files[name].sha256:
            raise ArtifactError(
                f"has sha256 {found}, {MANIFEST_NAME} says {manifest.files[name].sha256}",
                place=f"{folder}/{name}",
                hint="The file was changed or damaged; fetch the artifact again",
            )
    return contents


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read: {error.strerror}", place=f"{folder}/{name}"
        ) from error
