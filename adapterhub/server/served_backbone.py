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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.specs import QuantizationSpec

_LOG = logging.getLogger(__name__)
BackboneState = Literal["loaded", "loading", "unloaded"]
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
        self._lock = asyncio.Lock()
        self._users = 0
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
            HTTPError: If it is not loaded.
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
        """Whether it is loaded."""
        if self._loaded is not None:
            return "loaded"
        return "loading" if self._lock.locked() else "unloaded"

    @property
    def pinned(self) -> frozenset[str]:
        """Digests of the pinned adapters."""
        return frozenset(self._pinned)

    @property
    def users(self) -> int:
        """Number of requests that use it."""
        return self._users

    async def acquire(self) -> None:
        """Load it if necessary, and keep it loaded until ``release``."""
        self._users += 1
        if self._loaded is not None:
            return
        try:
            async with self._lock:
                if self._loaded is None:
                    await self._reload()
        except BaseException:
            self._users -= 1
            raise

    def release(self) -> None:
        """End a use that ``acquire`` began."""
        self._users -= 1

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
