"""What the ``model`` of a request means: the backbone, an adapter, or a blend of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.errors import NotFoundError, RefError, did_you_mean
from adapterhub.hub.client.address import SCHEME
from adapterhub.refs import parse_blend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.registry import Registry
    from adapterhub.registry.version import Version

#: Most names that a message about an unknown one chooses from.
MAX_NEAR = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter of a model.

    Args:
        ref: as it was asked for.
        name: of the adapter, without a version.
        digest: that the reference means now.
        weight: of the adapter in a blend.
        task: that it was trained for; empty where that is not known.
        labels: of its head.
    """

    ref: str
    name: str
    digest: str
    weight: float = 1.0
    task: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """What answers a request.

    Args:
        text: as it was asked for.
        parts: adapters, each once; none for the bare backbone.
    """

    text: str
    parts: tuple[Part, ...] = ()

    @property
    def adapters(self) -> tuple[tuple[str, float], ...] | None:
        """As the engine takes them: digests and weights."""
        return tuple((part.digest, part.weight) for part in self.parts) or None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return tuple(part.name for part in self.parts)

    @property
    def refs(self) -> tuple[str, ...]:
        """References of the adapters, as they were asked for."""
        return tuple(part.ref for part in self.parts)

    @property
    def label(self) -> str:
        """One word for queues and counts: the adapters' names, or ``base``."""
        return "+".join(self.names) or "base"

    @property
    def digests(self) -> str:
        """Value of the header that tells what answered."""
        return ",".join(part.digest for part in self.parts)

    def described(self) -> list[dict[str, Any]]:
        """Return the adapters as answers tell them."""
        return [
            {"ref": part.ref, "digest": part.digest, "weight": part.weight} for part in self.parts
        ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a name means that somebody gave to an adapter while the server runs.

    Args:
        digest: of the adapter.
        ref: it was loaded by.
        name: of the adapter.
        task: that it was trained for.
        labels: of its head.
    """

    digest: str
    ref: str
    name: str
    task: str = ""
    labels: tuple[str, ...] = ()


class LoadedNames:
    """Names that mean an adapter only in this server. Safe for use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._names: dict[str, Loaded] = {}

    def set(self, name: str, loaded: Loaded) -> None:
        """Let a name stand for an adapter from now on."""
        with self._lock:
            self._names[name] = loaded

    def get(self, name: str) -> Loaded | None:
        """Return what a name stands for, if it does."""
        with self._lock:
            return self._names.get(name)

    def remove(self, name: str) -> tuple[Loaded, bool]:
        """Forget a name; return what it stood for, and whether another one still does.

        Raises:
            NotFoundError: when there is no such name.
        """
        with self._lock:
            if name not in self._names:
                raise NotFoundError(
                    "is not loaded", place=name[:200], hint=did_you_mean(name, self._names)
                )
            gone = self._names.pop(name)
            return gone, any(each.digest == gone.digest for each in self._names.values())

    def all(self) -> Mapping[str, Loaded]:
        """Return every name."""
        with self._lock:
            return dict(self._names)


class Models:
    """Resolves what requests ask for. Its methods read the registry, so they take a thread.

    Args:
        backbone: that is served.
        registry: of this machine.
        loader: that fetches what is resolved here.
        loaded: names given while the server runs; they come before those of the registry.
    """

    def __init__(
        self, backbone: Backbone, registry: Registry, loader: AdapterLoader, loaded: LoadedNames
    ) -> None:
        self._backbone = backbone
        self._registry = registry
        self._loader = loader
        self._loaded = loaded
        self.base = served_name(backbone)

    def find(self, text: str) -> Model:
        """Return what a ``model`` means now; what it means later changes nothing for it.

        Raises:
            NotFoundError: with near names, when one of its adapters is unknown.
            RefError: when it is no blend.
            FingerprintMismatch: when an adapter was trained on another backbone.
        """
        if text in (self.base, self._backbone.name):
            return Model(text)
        found: dict[str, Part] = {}
        for ref, weight in parse_blend(text):
            part = self._part(ref, weight)
            same = found.get(part.digest)
            if same is not None:
                part = Part(
                    same.ref, part.name, part.digest, same.weight + weight, part.task, part.labels
                )
            found[part.digest] = part
        return Model(text, tuple(found.values()))

    def version(self, ref: str) -> Version:
        """Return a version of the registry that this server can load.

        Raises:
            NotFoundError: with near names, when it is unknown.
            FingerprintMismatch: when it was trained on another backbone.
        """
        try:
            version = self._registry.resolve(ref)
        except (NotFoundError, RefError) as error:
            raise self._unknown(ref, error) from error
        check_fingerprint(self._backbone.fingerprint, ref, version.fingerprint)
        self._loader.register(version)
        return version

    def _part(self, ref: str, weight: float) -> Part:
        loaded = self._loaded.get(ref)
        if loaded is not None:
            return Part(ref, loaded.name, loaded.digest, weight, loaded.task, loaded.labels)
        version = self.version(ref)
        return Part(ref, version.name, version.digest, weight, version.task, version.labels)

    def _unknown(self, ref: str, error: NotFoundError | RefError) -> NotFoundError:
        place = ref[:200]
        if ref.startswith(SCHEME):
            hint = "Load it first: POST /v1/adapters/load"
            return NotFoundError("is not loaded", place=place, hint=hint)
        if isinstance(error, NotFoundError) and error.hint:
            return NotFoundError(error.problem, place=place, hint=error.hint)
        known = [self.base, *self._loaded.all(), *list(self._registry.last_numbers())[:MAX_NEAR]]
        hint = did_you_mean(ref.partition("@")[0][:200], known)
        return NotFoundError("is no adapter of this server", place=place, hint=hint)


def served_name(backbone: Backbone) -> str:
    """Return the name that clients know a backbone by; the last part where it is a folder."""
    return Path(backbone.name).name if Path(backbone.name).is_absolute() else backbone.name
