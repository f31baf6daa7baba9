"""Adapters brought into memory and let go by hand."""

from __future__ import annotations

import asyncio
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
from adapterhub.server.models import Loaded

if TYPE_CHECKING:
    from adapterhub.adapters.artifact import Artifact
    from adapterhub.server.context import Server


async def load(server: Server, ref: str, name: str | None = None) -> tuple[str, Loaded]:
    """Hold an adapter in memory; return the name that it is known by, and what it is.

    Args:
        server: that holds it.
        ref: of the registry, or ``hf://…``, which is pulled first.
        name: to ask for it by; the reference of its version where not given.

    Raises:
        NotFoundError: when there is no such version.
        FingerprintMismatch: when it was trained on another backbone.
        AdapterHubError: why it can't be fetched, or is not served.
    """
    if ref.startswith(SCHEME):
        ref = await _pulled(server, ref)
    version = await asyncio.to_thread(server.models.version, ref)
    artifact = await asyncio.wrap_future(server.loader.fetch(version.digest))
    known = name or str(version.ref)
    loaded = Loaded(version.digest, str(version.ref), version.name, version.task, version.labels)
    await _take(server, artifact, known, loaded)
    return known, loaded


async def load_path(server: Server, path: str, name: str) -> Loaded:
    """Hold an adapter of a folder, as adapterhub or peft writes it, or else of a reference.

    Raises:
        NotFoundError: when it is neither a folder nor a reference that is known.
        AdapterHubError: why it can't be read, or is not served.
    """
    folder = Path(path)
    if folder.is_absolute():
        artifact = await asyncio.to_thread(_read_folder, server, folder, name)
        manifest = artifact.manifest
        loaded = Loaded(artifact.digest, name, name, manifest.task, tuple(manifest.labels))
        await _take(server, artifact, name, loaded)
        return loaded
    return (await load(server, path, name))[1]


async def unload(server: Server, name: str) -> Loaded:
    """Forget a name, and its adapter where no other name stands for it.

    Raises:
        NotFoundError: when there is no such name.
        HTTPError: when rows use it.
    """
    gone, still = server.loaded.remove(name)
    if not still:
        try:
            await server.engine.unload(gone.digest)
        except EngineError as error:
            server.loaded.set(name, gone)
            problem, place = error.problem, name[:200]
            raise HTTPError(409, problem, code="in_use", place=place, hint=error.hint) from error
    return gone


async def pin(server: Server, ref: str, *, pinned: bool) -> Loaded:
    """Keep an adapter in memory, or no longer; one that is not there is loaded.

    Raises:
        NotFoundError: when there is no such version.
    """
    model = await asyncio.to_thread(server.models.find, ref)
    if len(model.parts) != 1:
        raise RefError("is not one adapter", place=ref[:200])
    (part,) = model.parts
    if pinned and part.digest not in server.engine.adapters:
        _, loaded = await load(server, ref)
    else:
        loaded = Loaded(part.digest, part.ref, part.name, part.task, part.labels)
    await server.engine.pin(loaded.digest, pinned=pinned)
    return loaded


async def _take(server: Server, artifact: Artifact, name: str, loaded: Loaded) -> None:
    # the engine knows it by its digest, so that a name that moves on leaves requests alone
    await server.engine.load(artifact, name=loaded.digest)
    server.loaded.set(name, loaded)


async def _pulled(server: Server, ref: str) -> str:
    address = parse_address(ref)
    server.pulling.add(ref)
    try:
        found = await asyncio.to_thread(pull, server.registry, address)
    finally:
        server.pulling.discard(ref)
    return str(found.version.ref)


def _read_folder(server: Server, folder: Path, name: str) -> Artifact:
    """Read a folder; one that peft wrote is imported into the registry under the name."""
    if not folder.is_dir():
        raise NotFoundError("is no folder of the server's machine", place=str(folder)[:200])
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
