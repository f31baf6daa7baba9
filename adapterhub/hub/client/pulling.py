"""Pull of an adapter from a Hub into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import MAX_BYTES
from adapterhub.adapters.artifact_folder import CARD_NAME, WEIGHTS_NAME
from adapterhub.adapters.explicit_targets import with_explicit_targets
from adapterhub.adapters.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST,
    Manifest,
    digest_of,
    reject_pickle,
)
from adapterhub.adapters.peft_format import CONFIG_NAME, spec_of
from adapterhub.adapters.peft_kinds import needs_conversion
from adapterhub.adapters.strict_json import parse_object
from adapterhub.backbones.resolve import check_manifest_backbone, use_backbone
from adapterhub.errors import ArtifactError, FingerprintMismatch, NotFoundError, RefError
from adapterhub.hub.client.remote import Remote, hub_api, read_remote, without_password
from adapterhub.hub.import_peft import MAX_CARD, ImportOptions, import_peft, match_config
from adapterhub.refs import AdapterRef, check_name
from adapterhub.registry.sigstore import MAX_SIGNATURE, is_signature_name

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import HfApi

    from adapterhub.adapters.manifest import Conversion
    from adapterhub.hub.client.address import HubAddress
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Most signatures of one artifact.
MAX_SIGNATURES = 100
#: Largest size of ``adapter_config.json`` in bytes.
MAX_CONFIG = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pulled:
    """Result of a pull.

    Args:
        version: Version with the adapter.
        revision: Commit of the repository.
        new: Whether the registry did not have the adapter before.
        signatures: Keys of the signatures of the version.
        unknown: Manifest entries that are not recorded for an adapter trained elsewhere.
        conversion: How an adapter of another method was converted, if it was.
    """

    version: Version
    revision: str
    new: bool
    signatures: tuple[str, ...]
    unknown: tuple[str, ...]
    conversion: Conversion | None = None


def pull(
    registry: Registry,
    address: HubAddress,
    *,
    name: str | None = None,
    options: ImportOptions | None = None,
    force: bool = False,
    api: HfApi | None = None,
) -> Pulled:
    """Pull an adapter from a Hub into the registry.

    An adapterhub artifact is stored byte for byte with its signatures; any other LoRA or prefix
    adapter of peft is imported. The configuration is read first, and nothing else is downloaded
    if it names another backbone. The registry changes in one step at the end.

    Args:
        registry: Registry to store the adapter in.
        address: Address of the repository.
        name: Name in the registry; that of the repository in lower case by default.
        options: Facts that the files of a peft adapter do not contain. A backbone that is named for
            an artifact is checked, and used by all adapters that were trained on it.
        force: Whether to accept an artifact whose backbone has another fingerprint here.
        api: Client of the Hub; that of ``HF_ENDPOINT`` by default.

    Raises:
        RefError: When the name of the repository is not valid in the registry.
        TransferError: When the Hub cannot be reached, or rejects the request.
        ArtifactError: When there is no adapter, or a damaged or unsupported one.
        BackboneError: When the backbone is unknown, or not the requested one.
        FingerprintMismatch: When the backbone has another fingerprint here.
        SignatureError: When a signature by a trusted key is invalid.
        RegistryError: When the registry cannot be written.
    """
    name = name or _name_of(address)
    check_name(name)
    remote = read_remote(api or hub_api(), address, address.revision)
    with registry.staging() as staging:
        folder = staging / "fetched"
        folder.mkdir()
        if MANIFEST_NAME in remote.files:
            backbone = options.backbone if options else None
            return _pull_artifact(registry, remote, folder, name, backbone, force=force)
        return _pull_peft(registry, remote, folder, name, options or ImportOptions())


def _name_of(address: HubAddress) -> str:
    name = address.repo_id.lower()
    try:
        check_name(name)
    except RefError as error:
        raise RefError(
            error.problem, place=error.place, hint="Choose another one with --name"
        ) from error
    return name


def _pull_artifact(
    registry: Registry,
    remote: Remote,
    folder: Path,
    name: str,
    backbone: str | None,
    *,
    force: bool,
) -> Pulled:
    content = remote.fetch(MANIFEST_NAME, folder, limit=MAX_MANIFEST).read_bytes()
    manifest = Manifest.from_json(content)
    _check_listing(remote, manifest)
    if backbone:
        use_backbone(manifest, backbone, place=str(remote.address), force=force)
    version = _present(registry, name, digest_of(content))
    if version is None:
        _check_backbone(remote, manifest, folder, force=force)
        for file, entry in manifest.files.items():
            if not (folder / file).exists():
                remote.fetch(file, folder, limit=entry.size, sha256=entry.sha256)
    signatures = _signatures(remote, folder)
    if version is None:
        stored = registry.put(folder, name, info=_info(remote), signatures=signatures)
    else:
        stored = version
        for each in signatures:
            registry.add_signature(version.ref, each)
    keys = tuple(signed.key for signed in registry.stored_signatures(stored.digest))
    return Pulled(stored, remote.sha, version is None, keys, manifest.unknown, manifest.conversion)


def _check_listing(remote: Remote, manifest: Manifest) -> None:
    place = str(remote.address)
    for file, entry in manifest.files.items():
        found = remote.files.get(file)
        if found is None:
            raise ArtifactError(
                f"{file!r} is listed in {MANIFEST_NAME} and missing",
                place=place,
                hint="Ask its owner to publish it again",
            )
        if found.size != entry.size:
            raise ArtifactError(
                f"{file} has {found.size} bytes, {MANIFEST_NAME} says {entry.size}",
                place=place,
                hint="It was changed after it was published; ask its owner to publish it again",
            )
    total = sum(entry.size for entry in manifest.files.values())
    if total > MAX_BYTES:
        raise ArtifactError(f"has {total} bytes, the limit is {MAX_BYTES}", place=place)


def _check_backbone(remote: Remote, manifest: Manifest, folder: Path, *, force: bool) -> None:
    if CONFIG_NAME not in manifest.files:
        raise ArtifactError(f"lists no {CONFIG_NAME}", place=f"{remote.address}: {MANIFEST_NAME}")
    config = _config(remote, folder, sha256=manifest.files[CONFIG_NAME].sha256)
    base_model = config.get("base_model_name_or_path")
    try:
        check_manifest_backbone(
            manifest,
            base_model if isinstance(base_model, str) else None,
            place=str(remote.address),
        )
    except FingerprintMismatch:
        if not force:
            raise


def _signatures(remote: Remote, folder: Path) -> list[bytes]:
    """Fetch the signatures and remove them from the folder of the artifact."""
    names = [name for name in remote.files if is_signature_name(name)]
    if len(names) > MAX_SIGNATURES:
        raise ArtifactError(
            f"has {len(names)} signatures, the limit is {MAX_SIGNATURES}", place=str(remote.address)
        )
    paths = [remote.fetch(name, folder, limit=MAX_SIGNATURE) for name in sorted(names)]
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    return contents


def _pull_peft(
    registry: Registry, remote: Remote, folder: Path, name: str, options: ImportOptions
) -> Pulled:
    place = str(remote.address)
    _check_is_adapter(remote)
    config = _config(remote, folder)
    # checks of the configuration come before the download of the weights
    match_config(config, options, place=place)
    if not needs_conversion(config):
        spec_of(with_explicit_targets(config, ()))
    remote.fetch(WEIGHTS_NAME, folder, limit=MAX_BYTES, sha256=remote.files[WEIGHTS_NAME].sha256)
    if CARD_NAME in remote.files and remote.files[CARD_NAME].size <= MAX_CARD:
        remote.fetch(CARD_NAME, folder, limit=MAX_CARD)
    target = folder.parent / "imported"
    origin = f"hf://{remote.address.repo_id}@{remote.sha}"
    digest = import_peft(folder, target, name=name, origin=origin, options=options)
    new = _present(registry, name, digest) is None
    version = registry.put(target, name, info=_info(remote))
    manifest = Manifest.from_json((target / MANIFEST_NAME).read_bytes())
    return Pulled(version, remote.sha, new, (), manifest.unknown, manifest.conversion)


def _check_is_adapter(remote: Remote) -> None:
    place = str(remote.address)
    if CONFIG_NAME not in remote.files:
        whole = "config.json" in remote.files
        raise ArtifactError(
            f"is not an adapter: it has neither {MANIFEST_NAME} nor {CONFIG_NAME}",
            place=place,
            hint=f"It is a model: adapterhub backbones fetch {remote.address.repo_id}"
            if whole
            else "",
        )
    if WEIGHTS_NAME not in remote.files:
        for file in sorted(remote.files):
            if file.startswith("adapter_model"):
                reject_pickle(file, place)
        raise ArtifactError(f"has no {WEIGHTS_NAME}", place=place)


def _config(remote: Remote, folder: Path, *, sha256: str | None = None) -> dict[str, Any]:
    path = remote.fetch(CONFIG_NAME, folder, limit=MAX_CONFIG, sha256=sha256)
    return parse_object(path.read_bytes(), f"{remote.address}: {CONFIG_NAME}")


def _present(registry: Registry, name: str, digest: str) -> Version | None:
    try:
        return registry.resolve(AdapterRef(name, digest=digest))
    except NotFoundError:
        return None


def _info(remote: Remote) -> dict[str, Any]:
    return {
        "hub": {
            "repository": remote.address.repo_id,
            "revision": remote.sha,
            "endpoint": without_password(remote.api.endpoint),
        }
    }
