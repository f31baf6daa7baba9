"""Adapter names: the one table that maps the ``model`` of a request to digests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from adapterhub.errors import NotFoundError, RefError, did_you_mean
from adapterhub.http.errors import HTTPError
from adapterhub.hub.client.address import SCHEME
from adapterhub.refs import parse_blend
from adapterhub.server.resolved_adapter import ResolvedAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.server.backbones import Backbones
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.server.served_backbone import ServedBackbone

#: Most names that are compared with an unknown one for a suggestion.
MAX_SUGGESTIONS = 1000
#: Whether the caller may know a name.
Visible: TypeAlias = "Callable[[str], bool]"


def _all_visible(_name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The ``model`` of a request: a backbone, an adapter or a blend.

    Args:
        name: Name, as requested.
        served: Backbone that computes it.
        parts: Adapters, each once; none for the base model.
    """

    name: str
    served: ServedBackbone
    parts: tuple[ResolvedAdapter, ...] = ()

    @property
    def loaded(self) -> LoadedBackbone:
        """The backbone in memory, for a request that holds it."""
        return self.served.loaded

    @property
    def adapters(self) -> tuple[tuple[str, float], ...] | None:
        """Digests and weights for the engine; ``None`` for the base model."""
        return tuple((part.digest, part.weight) for part in self.parts) or None

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters, without versions."""
        return tuple(part.name for part in self.parts)

    @property
    def label(self) -> str:
        """Name for queues: the adapters' names, or the backbone's."""
        return "+".join(self.adapter_names) or self.served.name

    @property
    def digests(self) -> str:
        """Digests of the adapters, separated by commas."""
        return ",".join(part.digest for part in self.parts)

    def provenance(self) -> list[dict[str, Any]]:
        """Return the adapters as responses list them."""
        return [
            {"ref": part.ref, "digest": part.digest, "weight": part.weight} for part in self.parts
        ]


class AdapterNames:
    """Names of the backbones and of their adapters, resolved once when a request is admitted.

    An adapter's backbone is the one whose fingerprint is in its manifest.

    Names that were given at runtime take precedence over references of the registry.
    Safe for use from several threads. Methods that read the registry block.
    """

    def __init__(self, backbones: Backbones, registry: Registry, loader: AdapterLoader) -> None:
        self._backbones = backbones
        self._registry = registry
        self._loader = loader
        self._lock = Lock()
        self._loaded: dict[str, ResolvedAdapter] = {}

    @property
    def base(self) -> str:
        """Name of the first backbone."""
        return self._backbones.first.name

    def is_base(self, name: str) -> bool:
        """Return whether a ``model`` is a backbone without adapter."""
        return self._backbones.is_name(name)

    def resolve(self, name: str, visible: Visible = _all_visible) -> ResolvedModel:
        """Return what a ``model`` refers to now.

        Args:
            name: The ``model`` of a request.
            visible: Whether a name may be suggested in an error.
        """
        base = self._backbones.named(name)
        if base is not None:
            return ResolvedModel(name, base)
        found: dict[str, ResolvedAdapter] = {}
        for ref, weight in parse_blend(name):
            part = self._resolve_adapter(ref, weight, visible)
            same = found.get(part.digest)
            found[part.digest] = replace(same, weight=same.weight + weight) if same else part
        return ResolvedModel(name, self._backbone_of(name, found.values()), tuple(found.values()))

    def resolve_version(self, ref: str, visible: Visible = _all_visible) -> Version:
        """Return a version of the registry that fits a backbone."""
        try:
            version = self._registry.resolve(ref)
        except (NotFoundError, RefError) as error:
            raise self._unknown(ref, error, visible) from error
        self._backbones.of(ref, version.fingerprint)
        self._loader.register(version)
        return version

    def add(self, name: str, adapter: ResolvedAdapter) -> ResolvedAdapter | None:
        """Give an adapter a name; return the one that lost its only name by that, if any."""
        with self._lock:
            before = self._loaded.get(name)
            self._loaded[name] = adapter
            if before is None:
                return None
            named = any(other.digest == before.digest for other in self._loaded.values())
            return None if named else before

    def remove(self, name: str, visible: Visible = _all_visible) -> tuple[ResolvedAdapter, bool]:
        """Remove a name that was given; return its adapter and whether it has another name."""
        with self._lock:
            if name not in self._loaded:
                hint = did_you_mean(name, filter(visible, self._loaded))
                raise NotFoundError("is not loaded", place=name[:200], hint=hint)
            adapter = self._loaded.pop(name)
            return adapter, any(other.digest == adapter.digest for other in self._loaded.values())

    def loaded(self) -> Mapping[str, ResolvedAdapter]:
        """Return the names that were given and their adapters."""
        with self._lock:
            return dict(self._loaded)

    def by_digest(self) -> dict[str, str]:
        """Return the name of each adapter by its digest."""
        names = {adapter.digest: adapter.name for adapter in self.loaded().values()}
        return names | {version.digest: version.name for version in self._registry.list()}

    def _resolve_adapter(self, ref: str, weight: float, visible: Visible) -> ResolvedAdapter:
        with self._lock:
            loaded = self._loaded.get(ref)
        if loaded is not None:
            return replace(loaded, ref=ref, weight=weight)
        return ResolvedAdapter.of(self.resolve_version(ref, visible), ref, weight)

    def _backbone_of(self, name: str, parts: Collection[ResolvedAdapter]) -> ServedBackbone:
        """Return the one backbone of all adapters of a model."""
        found = {part.ref: self._backbones.of(part.ref, part.fingerprint) for part in parts}
        first, *others = dict.fromkeys(found.values())
        if others:
            parts_of = ", ".join(f"{ref} of {served.name}" for ref, served in found.items())
            raise HTTPError(
                409,
                f"blends adapters of several backbones: {parts_of}",
                code="fingerprint_mismatch",
                place=name[:200],
                hint="Blend adapters of one backbone",
            )
        return first

    def _unknown(
        self, ref: str, error: NotFoundError | RefError, visible: Visible
    ) -> NotFoundError:
        place = ref[:200]
        if ref.startswith(SCHEME):
            hint = "Load it first: POST /v1/adapters/load"
            return NotFoundError("is not loaded", place=place, hint=hint)
        name = ref.partition("@")[0][:200]
        known = [each for each in self._registry.last_numbers() if visible(each)]
        if isinstance(error, NotFoundError) and error.hint and name in known:
            # of a name that is known, it says which versions there are
            return NotFoundError(error.problem, place=place, hint=error.hint)
        loaded = [each for each in self.loaded() if visible(each)]
        bases = self._backbones.names
        hint = did_you_mean(name, [*bases, *loaded, *known[:MAX_SUGGESTIONS]])
        what = "is not an adapter of this server"
        if len(bases) > 1:
            what = f"is neither an adapter nor a backbone of this server ({', '.join(bases)})"
        return NotFoundError(what, place=place, hint=hint)
