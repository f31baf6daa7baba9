"""Adapter lifecycle: load, unload and pin adapters while the server runs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.errors import ArtifactError, EngineError, NotFoundError, RefError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.client.address import SCHEME, parse_address
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.registry.policy import require_unsigned_loads
from adapterhub.server.resolved_adapter import ResolvedAdapter

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.server.context import Call, Server
    from adapterhub.server.served_backbone import ServedBackbone

logger = logging.getLogger(__name__)


async def load(call: Call, ref: str, name: str | None = None) -> tuple[str, ResolvedAdapter]:
    """Load an adapter into memory; return the name by which it can be requested, and the adapter.

    Args:
        call: Authenticated request; its caller must be allowed to use reference and name.
        ref: Reference of the registry, or ``hf://…``, which is pulled first.
        name: Name for requests; the reference of the version if not given.
    """
    server = call.server
    if name is not None:
        _check_name(call, name)
    if ref.startswith(SCHEME):
        ref = await _pull(call, ref)
    call.check_allowed(ref)
    version = await asyncio.to_thread(server.names.resolve_version, ref, call.caller.allows)
    artifact = await asyncio.wrap_future(server.loader.fetch(version.digest))
    name, adapter = name or str(version.ref), ResolvedAdapter.of(version)
    await _add(call, artifact, name, adapter)
    return name, adapter


async def load_path(
    call: Call, path: str, name: str, backbone: str | None = None
) -> ResolvedAdapter:
    """Load an adapter from a folder of adapterhub or peft, or by its reference.

    A folder leaves no trace in the registry: its adapter is gone once it is unloaded.

    Args:
        call: Authenticated request.
        path: Folder or reference.
        name: Name for requests.
        backbone: Name of the backbone of a folder in peft's format, which has no fingerprint.
    """
    _check_name(call, name)
    folder = Path(path)
    if not folder.is_absolute():
        return (await load(call, path, name))[1]
    call.check_unrestricted("loading a folder of the server")
    artifact = await asyncio.to_thread(_read_folder, call.server, folder, name, backbone)
    manifest = artifact.manifest
    fingerprint, labels = manifest.backbone.fingerprint, tuple(manifest.labels)
    adapter = ResolvedAdapter(name, name, artifact.digest, fingerprint, manifest.task, labels)
    await _add(call, artifact, name, adapter)
    return adapter


async def unload(call: Call, name: str) -> ResolvedAdapter:
    """Remove a name, and unload its adapter when it has no other name."""
    server = call.server
    call.check_allowed(name)
    adapter, named = server.names.remove(name, call.caller.allows)
    if not named:
        try:
            served = server.backbones.of(name, adapter.fingerprint)
            await served.unload_adapter(adapter.digest)
        except EngineError as error:
            server.names.add(name, adapter)
            problem, place = error.problem, name[:200]
            raise HTTPError(409, problem, code="in_use", place=place, hint=error.hint) from error
    return adapter


async def pin(call: Call, ref: str, *, pinned: bool) -> ResolvedAdapter:
    """Pin an adapter in memory, loading it if necessary, or unpin it."""
    model = await asyncio.to_thread(call.resolve, ref)
    if len(model.parts) != 1:
        raise RefError("is not one adapter", place=ref[:200])
    adapter = replace(model.parts[0], weight=1.0)
    await call.hold(model.served)
    if pinned and adapter.digest not in model.loaded.engine.adapters:
        _, adapter = await load(call, ref)
    await model.served.pin(adapter.digest, pinned=pinned)
    return adapter


def _check_name(call: Call, name: str) -> None:
    if call.server.names.is_base(name):
        problem = "is the backbone's name, under which no adapter answers"
        raise HTTPError(409, problem, code="conflict", place=name, hint="Give another name")
    call.check_allowed(name)


async def _add(call: Call, artifact: Artifact, name: str, adapter: ResolvedAdapter) -> None:
    names, backbones = call.server.names, call.server.backbones
    served = backbones.of(name, adapter.fingerprint)
    await call.hold(served)
    try:
        await served.load_adapter(artifact)
    except ArtifactError as error:
        error.place = name
        raise
    unnamed = names.add(name, adapter)
    if unnamed is not None and unnamed.digest != adapter.digest:
        try:
            await backbones.of(name, unnamed.fingerprint).unload_adapter(unnamed.digest)
        except EngineError as error:
            # running requests finish on it; it stays in memory until the server stops
            logger.info("%s keeps the memory of its former adapter: %s", name, error)


async def _pull(call: Call, ref: str) -> str:
    server, address = call.server, parse_address(ref)
    call.check_allowed(address.repo_id)
    server.pulling.add(ref)
    try:
        found = await asyncio.to_thread(pull, server.registry, address)
    finally:
        server.pulling.discard(ref)
    return str(found.version.ref)


def _read_folder(server: Server, folder: Path, name: str, backbone: str | None) -> Artifact:
    """Read a folder; one of peft's format is converted in a temporary folder."""
    if not folder.is_dir():
        raise NotFoundError("is not a folder on the server", place=str(folder)[:200])
    require_unsigned_loads(server.registry, str(folder))
    if (folder / MANIFEST_NAME).is_file():
        artifact = read_artifact(folder)
        server.backbones.of(name, artifact.manifest.backbone.fingerprint)
        return artifact
    facts = _backbone_of(server, name, backbone).facts
    options = ImportOptions(backbone=facts.source, quantization=facts.quantization)
    with TemporaryDirectory(prefix="adapterhub-") as temporary:
        target = Path(temporary) / "imported"
        import_peft(folder, target, name=name, origin=folder.name, options=options)
        return read_artifact(target)


def _backbone_of(server: Server, adapter: str, name: str | None) -> ServedBackbone:
    """Return the backbone that a request names, or the only one."""
    if name is None and len(server.backbones) == 1:
        return server.backbones.first
    served = None if name is None else server.backbones.named(name)
    if served is None:
        problem = "needs the name of its backbone" if name is None else f"{name} is not a backbone"
        hint = f"Set base_model_name to one of: {', '.join(server.backbones.names)}"
        raise HTTPError(409, problem, code="no_backbone", place=adapter[:200], hint=hint)
    return served
