"""The backbones of a server: look-up by name and fingerprint, and calls to all engines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from adapterhub.errors import EngineClosedError, FingerprintMismatch, SettingsError
from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.engine.engine import Engine
    from adapterhub.server.served_backbone import BackboneFacts, ServedBackbone

_T = TypeVar("_T")


class Backbones:
    """Backbones of one server, in the order of its settings."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[str, ServedBackbone] = {}

    def add(self, served: ServedBackbone) -> None:
        """Add a backbone.

        Raises:
            SettingsError: If its adapters would also be those of another one.
        """
        same = self._by_fingerprint.setdefault(served.fingerprint, served)
        if same is not served:
            raise SettingsError(
                f"{served.facts.source} is the same backbone as {same.facts.source}",
                place="backbone",
                hint="Give it once",
            )

    def __iter__(self) -> Iterator[ServedBackbone]:
        return iter(self._by_fingerprint.values())

    def __len__(self) -> int:
        return len(self._by_fingerprint)

    @property
    def first(self) -> ServedBackbone:
        """The first one of the settings."""
        return next(iter(self))

    @property
    def names(self) -> list[str]:
        """Names for clients."""
        return [each.name for each in self]

    def named(self, name: str) -> ServedBackbone | None:
        """Return the backbone of a name, or ``None``.

        Raises:
            HTTPError: If several have the name.
        """
        found = [each for each in self if name in _names_of(each)]
        if len(found) > 1:
            sources = ", ".join(each.facts.source for each in found)
            raise HTTPError(
                409,
                f"is the name of {len(found)} backbones",
                code="ambiguous_model",
                place=name,
                hint=f"Request one of: {sources}",
            )
        return found[0] if found else None

    def is_name(self, name: str) -> bool:
        """Return whether a name is that of a backbone."""
        return any(name in _names_of(each) for each in self)

    def of(self, ref: str, fingerprint: str) -> ServedBackbone:
        """Return the backbone that an adapter was trained on.

        Raises:
            FingerprintMismatch: If it is not served.
        """
        found = self._by_fingerprint.get(fingerprint)
        if found is None:
            loaded = {each.name: each.fingerprint for each in self}
            only = self.first.fingerprint if len(self) == 1 else loaded
            raise FingerprintMismatch(ref, fingerprint, only)
        return found

    async def call(self, function: Callable[[Engine], _T]) -> dict[ServedBackbone, _T]:
        """Call a function with the engine of each loaded backbone; return its results."""
        results = {}
        for each in self:
            if each.current is not None:
                try:
                    results[each] = await each.current.engine.call(function)
                except EngineClosedError:
                    # it is being unloaded
                    continue
        return results


def unique_names(facts: Sequence[BackboneFacts]) -> list[str]:
    """Return the name of each backbone for clients; folders of one name get their paths."""
    counts = Counter(each.name for each in facts)
    return [each.name if counts[each.name] == 1 else each.source for each in facts]


def _names_of(served: ServedBackbone) -> tuple[str, str]:
    return served.facts.name, served.facts.source
