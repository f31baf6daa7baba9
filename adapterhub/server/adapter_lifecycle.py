"""Adapter lifecycle: load, unload and pin adapters while the server runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import map_artifact
from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.errors import EngineError, NotFoundError, RefError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.client.address import SCHEME, parse_address
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.registry.policy import require_unsigned_loads
from adapterhub.server.models import ResolvedAdapter

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.server.context import Server


async def load(server: Server, ref: str, name: str | None = None) -> tuple[str, ResolvedAdapter]:
    """Load an adapter into memory; return the name by which it can be requested, and the adapter.

    Args:
        server: Server that loads it.
        ref: Reference of the registry, or ``hf://…``, which is pulled first.
        name: Name for requests; the reference of the version if not given.
    """
    if ref.startswith(SCHEME):
        ref = await _pull(server, ref)
    version = await asyncio.to_thread(server.names.resolve_version, ref)
    artifact = await asyncio.wrap_future(server.loader.fetch(version.digest))
    name, adapter = name or str(version.ref), ResolvedAdapter.of(version)
    await _add(server, artifact, name, adapter)
    return name, adapter


async def load_path(server: Server, path: str, name: str) -> ResolvedAdapter:
    """Load an adapter from a folder of adapterhub or peft, or by its reference."""
    folder = Path(path)
    if not folder.is_absolute():
        return (await load(server, path, name))[1]
    artifact = await asyncio.to_thread(_read_folder, server, folder, name)
    manifest = artifact.manifest
    adapter = ResolvedAdapter(name, name, artifact.digest, manifest.task, tuple(manifest.labels))
    await _add(server, artifact, name, adapter)
    return adapter


async def unload(server: Server, name: str) -> ResolvedAdapter:
    """Remove a name, and unload its adapter when it has no other name."""
    adapter, named = server.names.remove(name)
    if not named:
        try:
            await server.engine.call(lambda engine: engine.unload(adapter.digest))
        except EngineError as error:
            server.names.add(name, adapter)
            problem, place = error.problem, name[:200]
            raise HTTPError(409, problem, code="in_use", place=place, hint=error.hint) from error
    return adapter


async def pin(server: Server, ref: str, *, pinned: bool) -> ResolvedAdapter:
    """Pin an adapter in memory, loading it if necessary, or unpin it."""
    model = await asyncio.to_thread(server.names.resolve, ref)
    if len(model.parts) != 1:
        raise RefError("is not one adapter", place=ref[:200])
    adapter = replace(model.parts[0], weight=1.0)
    if pinned and adapter.digest not in server.engine.adapters:
        _, adapter = await load(server, ref)
    await server.engine.call(lambda engine: engine.pin(adapter.digest, pinned=pinned))
    return adapter


async def _add(server: Server, artifact: Artifact, name: str, adapter: ResolvedAdapter) -> None:
    # the engine knows adapters by digest only, so a name that moves leaves requests unchanged
    await server.engine.call(lambda engine: engine.load(artifact, name=adapter.digest))
    server.names.add(name, adapter)


async def _pull(server: Server, ref: str) -> str:
    address = parse_address(ref)
    server.pulling.add(ref)
    try:
        found = await asyncio.to_thread(pull, server.registry, address)
    finally:
        server.pulling.discard(ref)
    return str(found.version.ref)


def _read_folder(server: Server, folder: Path, name: str) -> Artifact:
    """Read a folder; one of peft's format is imported into the registry first."""
    if not folder.is_dir():
        raise NotFoundError("is not a folder on the server", place=str(folder)[:200])
    require_unsigned_loads(server.registry, str(folder))
    if (folder / MANIFEST_NAME).is_file():
        artifact = map_artifact(folder)
        expected = artifact.manifest.backbone.fingerprint
        check_fingerprint(server.backbone.fingerprint, name, expected)
        return artifact
    options = ImportOptions(
        backbone=server.backbone.name, quantization=server.backbone.quantization
    )
    with server.registry.staging() as staging:
        target = staging / "imported"
        import_peft(folder, target, name=name, origin=folder.name, options=options)
        version = server.registry.put(target, name)
    return map_artifact(server.registry.materialize(version))
