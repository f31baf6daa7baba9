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
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.errors import ArtifactError, EngineError, NotFoundError, RefError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.client.address import SCHEME, parse_address
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.registry.policy import require_unsigned_loads
from adapterhub.server.models import ResolvedAdapter

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.server.context import Call, Server

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
    await _add(server, artifact, name, adapter)
    return name, adapter


async def load_path(call: Call, path: str, name: str) -> ResolvedAdapter:
    """Load an adapter from a folder of adapterhub or peft, or by its reference.

    A folder leaves no trace in the registry: its adapter is gone once it is unloaded.
    """
    _check_name(call, name)
    folder = Path(path)
    if not folder.is_absolute():
        return (await load(call, path, name))[1]
    call.check_unrestricted("loading a folder of the server")
    artifact = await asyncio.to_thread(_read_folder, call.server, folder, name)
    manifest = artifact.manifest
    adapter = ResolvedAdapter(name, name, artifact.digest, manifest.task, tuple(manifest.labels))
    await _add(call.server, artifact, name, adapter)
    return adapter


async def unload(call: Call, name: str) -> ResolvedAdapter:
    """Remove a name, and unload its adapter when it has no other name."""
    server = call.server
    call.check_allowed(name)
    adapter, named = server.names.remove(name, call.caller.allows)
    if not named:
        try:
            await server.engine.call(lambda engine: engine.unload(adapter.digest))
        except EngineError as error:
            server.names.add(name, adapter)
            problem, place = error.problem, name[:200]
            raise HTTPError(409, problem, code="in_use", place=place, hint=error.hint) from error
    return adapter


async def pin(call: Call, ref: str, *, pinned: bool) -> ResolvedAdapter:
    """Pin an adapter in memory, loading it if necessary, or unpin it."""
    server = call.server
    model = await asyncio.to_thread(call.resolve, ref)
    if len(model.parts) != 1:
        raise RefError("is not one adapter", place=ref[:200])
    adapter = replace(model.parts[0], weight=1.0)
    if pinned and adapter.digest not in server.engine.adapters:
        _, adapter = await load(call, ref)
    await server.engine.call(lambda engine: engine.pin(adapter.digest, pinned=pinned))
    return adapter


def _check_name(call: Call, name: str) -> None:
    if call.server.names.is_base(name):
        problem = "is the backbone's name, under which no adapter answers"
        raise HTTPError(409, problem, code="conflict", place=name, hint="Give another name")
    call.check_allowed(name)


async def _add(server: Server, artifact: Artifact, name: str, adapter: ResolvedAdapter) -> None:
    # the engine knows adapters by digest only, so a name that moves leaves requests unchanged
    try:
        await server.engine.call(lambda engine: engine.load(artifact, name=adapter.digest))
    except ArtifactError as error:
        error.place = name
        raise
    unnamed = server.names.add(name, adapter)
    if unnamed is not None and unnamed != adapter.digest:
        try:
            await server.engine.call(lambda engine: engine.unload(unnamed))
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


def _read_folder(server: Server, folder: Path, name: str) -> Artifact:
    """Read a folder; one of peft's format is converted in a temporary folder."""
    if not folder.is_dir():
        raise NotFoundError("is not a folder on the server", place=str(folder)[:200])
    require_unsigned_loads(server.registry, str(folder))
    if (folder / MANIFEST_NAME).is_file():
        artifact = read_artifact(folder)
        expected = artifact.manifest.backbone.fingerprint
        check_fingerprint(server.backbone.fingerprint, name, expected)
        return artifact
    options = ImportOptions(
        backbone=server.backbone.name, quantization=server.backbone.quantization
    )
    with TemporaryDirectory(prefix="adapterhub-") as temporary:
        target = Path(temporary) / "imported"
        import_peft(folder, target, name=name, origin=folder.name, options=options)
        return read_artifact(target)
