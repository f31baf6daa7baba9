"""The engine of one caller, sized by what is loaded and requested."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.engine.adapter_preparation import num_virtual_tokens
from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.loaded_adapter import LoadedAdapter
from adapterhub.engine.prepared_adapter import LoraFactors
from adapterhub.errors import (
    AdapterHubError,
    EngineError,
    NotFoundError,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone

#: Without a server there is nobody to share with: tables and cache are as large as they must be.
_SIZES = EngineConfig(kv_cache_tokens=0, rank_slots=32, host_cache_bytes=2**50)
#: Most KV-cache tokens beyond those of the longest sequence.
MAX_CACHE_TOKENS = 16384
#: Sizes of the cache are multiples, so that few requests need a larger one.
_CACHE_STEP = 256


class LocalEngine:
    """An engine for one caller. Not safe for use from several threads.

    The engine is opened when it is needed; meanwhile the backbone is as it was. It is opened anew
    where an adapter or a prompt needs larger tables.

    Args:
        backbone: Frozen backbone, which belongs to the engine from ``load`` to ``close``.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._sizes = _SIZES
        self._engine: Engine | None = None
        self._lent = False
        self._adapters: dict[str, LoadedAdapter] = {}

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """The loaded adapters by name."""
        return dict(self._adapters)

    @property
    def engine(self) -> Engine:
        """The engine with all loaded adapters."""
        if self._lent:
            raise EngineError("is lent to others", place=self.backbone.name)
        if self._engine is None:
            self._engine = Engine(self.backbone, self._sizes)
            for name, loaded in self._adapters.items():
                self._engine.load(loaded.artifact, name=name, force=True, needs_effect=False)
        return self._engine

    def load(self, artifact: Artifact, *, name: str, force: bool = False) -> LoadedAdapter:
        """Load an artifact under an unused name.

        Args:
            artifact: Verified artifact.
            name: Name of the adapter.
            force: Whether to accept an adapter that was trained on another backbone.

        Raises:
            FingerprintMismatch: If it was trained on another backbone.
            StrictLoadError: If its tensors do not fit the model one to one.
            NoEffectError: If it does not change the output.
        """
        if name in self._adapters:
            raise AdapterHubError("is already loaded", place=name)
        manifest = artifact.manifest
        check_fingerprint(
            self.backbone.fingerprint, name, manifest.backbone.fingerprint, force=force
        )
        task = task_of(manifest, self.backbone)
        loaded = LoadedAdapter(self, name, artifact, task)
        if task.generation is not None:
            options = task.generation.options
            self.reserve_cache(options.max_length + options.max_new_tokens)
        self._place(artifact, name)
        self._adapters[name] = loaded
        return loaded

    def exchange(self, name: str, artifact: Artifact) -> LoadedAdapter:
        """Load another artifact in the place of an adapter, for its task.

        It need not have an effect, so that a search may try any weights of a blend.

        Raises:
            NotFoundError: If no adapter of that name is loaded.
        """
        loaded = self.adapter(name)
        self.unload(name)
        self._place(artifact, name, needs_effect=False)
        self._adapters[name] = LoadedAdapter(self, name, artifact, loaded.task)
        return self._adapters[name]

    def unload(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            NotFoundError: If it is not loaded.
        """
        self.adapter(name)
        if self._engine is not None:
            self._engine.unload(name)
        del self._adapters[name]

    def adapter(self, name: str) -> LoadedAdapter:
        """Return a loaded adapter.

        Raises:
            NotFoundError: If it is not loaded.
        """
        if name not in self._adapters:
            hint = did_you_mean(name, self._adapters)
            raise NotFoundError("is not loaded", place=name, hint=hint)
        return self._adapters[name]

    def num_virtual_tokens(self, name: str) -> int:
        """Return the number of virtual tokens of a loaded adapter."""
        prepared = self.engine.core.host.get(self.adapter(name).digest)
        return 0 if prepared is None else num_virtual_tokens([prepared], [1.0])

    def reserve_cache(self, longest: int, tokens: int = 0) -> None:
        """Make room in the KV cache.

        Args:
            longest: Tokens of the longest sequence, which must fit.
            tokens: Tokens of all sequences that may run at once, which fit up to a limit.
        """
        wanted = max(longest, min(tokens, MAX_CACHE_TOKENS))
        if wanted > self._sizes.kv_cache_tokens:
            steps = -(-wanted // _CACHE_STEP)
            self._resize(replace(self._sizes, kv_cache_tokens=steps * _CACHE_STEP))

    @contextmanager
    def lend_backbone(self) -> Iterator[Backbone]:
        """Give the backbone back inside the block, as it was without an engine."""
        self.close()
        self._lent = True
        try:
            yield self.backbone
        finally:
            self._lent = False

    def close(self) -> None:
        """Restore the backbone; the adapters stay loaded for the next use."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _place(self, artifact: Artifact, name: str, *, needs_effect: bool = True) -> None:
        """Load an artifact into the engine, in tables that hold its rank."""
        rank = getattr(artifact.weights.spec, "rank", 0)
        if rank > self._sizes.rank_slots:
            self._resize(replace(self._sizes, rank_slots=rank))
        self.engine.load(artifact, name=name, force=True, needs_effect=needs_effect)
        prepared = self.engine.core.host.get(artifact.digest)
        # single layers may have a larger rank
        if isinstance(prepared, LoraFactors) and prepared.rank > self._sizes.rank_slots:
            self._resize(replace(self._sizes, rank_slots=prepared.rank))
            self.engine.load(artifact, name=name, force=True, needs_effect=needs_effect)

    def _resize(self, sizes: EngineConfig) -> None:
        self._sizes = sizes
        self.close()
