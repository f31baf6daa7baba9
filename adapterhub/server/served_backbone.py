"""A backbone of a server: loaded for requests, and unloaded while none uses it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.errors import AdapterHubError, BackboneError
from adapterhub.http.errors import HTTPError
from adapterhub.server.loaded_backbone import release_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.specs import QuantizationSpec

_LOG = logging.getLogger(__name__)
BackboneState = Literal["loaded", "loading", "unloading", "unloaded", "failed"]
#: Loads the weights of a backbone; called on a thread.
LoadWeights: TypeAlias = "Callable[[], Backbone]"
#: Builds and starts the engine of a backbone; called on a thread.
OpenEngine: TypeAlias = "Callable[[Backbone], LoadedBackbone]"


@dataclass(frozen=True, slots=True)
class BackboneFacts:
    """What is known of a backbone, whether it is loaded or not.

    Args:
        name: Name, of a local folder its last part; other folders may have the same.
        source: Name in the catalog, Hub id or folder.
        fingerprint: Fingerprint that its adapters have.
        kind: Kind of the backbone.
        quantization: Quantization of its linear layers.
        generates: Whether it has an output layer, and so a KV cache.
        forward_paths: Verdict on its forward paths.
    """

    name: str
    source: str
    fingerprint: str
    kind: BackboneKind
    quantization: QuantizationSpec
    generates: bool
    forward_paths: Mapping[str, Any]

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """Return the facts of a loaded backbone."""
        source = Path(backbone.name)
        return cls(
            name=source.name if source.is_absolute() else backbone.name,
            source=backbone.name,
            fingerprint=backbone.fingerprint,
            kind=backbone.kind,
            quantization=backbone.quantization,
            generates=backbone.lm_head is not None,
            forward_paths=asdict(forward_paths(backbone)),
        )


class ServedBackbone:
    """Holds a backbone in memory while requests use it. For one event loop.

    Args:
        name: Name for clients and metrics, which no other backbone of the server has.
        facts: Facts of the backbone.
        load_weights: Loads its weights again after it was unloaded.
        open_engine: Builds its engine.
    """

    def __init__(
        self, name: str, facts: BackboneFacts, load_weights: LoadWeights, open_engine: OpenEngine
    ) -> None:
        self.name, self.facts = name, facts
        self.fingerprint = facts.fingerprint
        self._load_weights, self._open_engine = load_weights, open_engine
        self._loaded: LoadedBackbone | None = None
        #: held while it is loaded or unloaded
        self._lock = asyncio.Lock()
        self._unloading = self._failed = False
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._last_used = time.monotonic()
        #: adapters that were loaded explicitly, which a reload loads again, by digest
        self._artifacts: dict[str, Artifact] = {}
        self._pinned: set[str] = set()
        #: most tokens of a prompt and its answer together
        self.context_length = 0
        #: seconds that the last load took
        self.load_seconds = 0.0

    @property
    def loaded(self) -> LoadedBackbone:
        """The backbone in memory; for requests that have acquired it.

        Raises:
            HTTPError: If it is not loaded, as after a crash whose cause also prevents a reload.
        """
        if self._loaded is None:
            raise HTTPError(503, "is not loaded", code="unloaded", place=self.name)
        return self._loaded

    @property
    def current(self) -> LoadedBackbone | None:
        """The backbone in memory; ``None`` if it is not loaded."""
        return self._loaded

    @property
    def state(self) -> BackboneState:
        """Whether it is loaded; ``failed`` after a crash of its engine or a load that failed."""
        if self._unloading:
            return "unloading"
        if self._lock.locked():
            return "loading"
        if self._failed or (self._loaded is not None and self._loaded.engine.crashed):
            return "failed"
        return "unloaded" if self._loaded is None else "loaded"

    @property
    def pinned(self) -> frozenset[str]:
        """Digests of the pinned adapters."""
        return frozenset(self._pinned)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request ended; 0 while requests use it or it is not loaded."""
        if self._users or self.state != "loaded":
            return 0.0
        return time.monotonic() - self._last_used

    async def acquire(self) -> None:
        """Load it if necessary, and keep it loaded until ``release``.

        Raises:
            HTTPError: If it can't be loaded.
        """
        if self.state != "loaded":
            async with self._lock:
                await self._ensure_loaded()
                self._use()
        else:
            self._use()

    def release(self) -> None:
        """End a use that ``acquire`` began."""
        self._users -= 1
        self._last_used = time.monotonic()
        if not self._users:
            self._unused.set()

    async def unload(self, timeout: float = 0.0) -> None:
        """Unload it once its requests have finished; those that come meanwhile load it again.

        Args:
            timeout: Seconds to wait for requests that use it.

        Raises:
            HTTPError: If requests still use it then.
        """
        async with self._lock:
            self._unloading = True
            try:
                if self._users:
                    await asyncio.wait_for(self._unused.wait(), timeout)
                await self.close()
            except TimeoutError:
                problem = f"is in use by {self._users} requests"
                raise HTTPError(
                    409, problem, code="in_use", place=self.name, hint="Try again later"
                ) from None
            finally:
                self._unloading = False
        _LOG.info("%s was unloaded", self.name)

    async def start(self, backbone: Backbone, weights_seconds: float) -> None:
        """Start the engine of weights that are loaded already.

        Args:
            backbone: The weights.
            weights_seconds: Seconds that loading them took.
        """
        began = time.perf_counter()
        loaded = await asyncio.to_thread(self._open_engine, backbone)
        self.context_length = loaded.context_length
        self._loaded = loaded
        self.load_seconds = weights_seconds + time.perf_counter() - began
        _LOG.info("%s was loaded in %.2f seconds", self.name, self.load_seconds)

    async def close(self) -> None:
        """End all requests, and unload it."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await loaded.close()
            del loaded
            await asyncio.to_thread(release_memory)

    async def load_adapter(self, artifact: Artifact) -> None:
        """Load an adapter explicitly; it stays, also when the backbone is loaded again."""
        await _load(self.loaded, artifact)
        self._artifacts[artifact.digest] = artifact

    async def unload_adapter(self, digest: str) -> None:
        """Unload an adapter that was loaded explicitly.

        Raises:
            EngineError: If requests use it.
        """
        if self._loaded is not None:
            await self._loaded.engine.call(lambda engine: engine.unload(digest))
        self._artifacts.pop(digest, None)

    async def pin(self, digest: str, *, pinned: bool) -> None:
        """Keep an adapter in memory, or end that."""
        await _pin(self.loaded, digest, pinned=pinned)
        (self._pinned.add if pinned else self._pinned.discard)(digest)

    def _use(self) -> None:
        self._users += 1
        self._unused.clear()

    async def _ensure_loaded(self) -> None:
        if self._loaded is not None and not self._loaded.engine.crashed:
            return
        # until it has succeeded
        self._failed = True
        try:
            await self.close()
            await self._reload()
            self._failed = False
        except AdapterHubError as error:
            problem = f"can't be loaded: {error.problem}"
            raise HTTPError(
                503, problem, code="not_loaded", place=self.name, hint=error.hint
            ) from error

    async def _reload(self) -> None:
        began = time.perf_counter()
        backbone = await asyncio.to_thread(self._load_weights)
        if backbone.fingerprint != self.fingerprint:
            raise BackboneError(
                "its files have changed since the server started",
                place=self.name,
                hint="Restart the server",
            )
        await self.start(backbone, time.perf_counter() - began)
        for digest, artifact in list(self._artifacts.items()):
            try:
                await _load(self.loaded, artifact)
                if digest in self._pinned:
                    await _pin(self.loaded, digest, pinned=True)
            except AdapterHubError as error:
                _LOG.warning("%s: an adapter was not loaded again: %s", self.name, error)


async def _load(loaded: LoadedBackbone, artifact: Artifact) -> None:
    # the engine knows adapters by digest only, so a name that moves leaves requests unchanged
    await loaded.engine.call(lambda engine: engine.load(artifact, name=artifact.digest))


async def _pin(loaded: LoadedBackbone, digest: str, *, pinned: bool) -> None:
    await loaded.engine.call(lambda engine: engine.pin(digest, pinned=pinned))
