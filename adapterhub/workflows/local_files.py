"""Paths of the files that an adapter was trained on, which only the registry's index holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.registry.version import LOCAL_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.registry.version import Version
    from adapterhub.training.recipe import Recipe

_SPLITS = ("train", "validation", "test")


def local_files(recipe: Recipe, added: Mapping[str, str]) -> dict[str, Any]:
    """Return the absolute paths of the files of a recipe, and of files added by refreshes.

    Args:
        recipe: Recipe of the run.
        added: Paths by the fingerprint of their examples.
    """
    data = recipe.data
    given = {} if data.hub else {split: getattr(data, split) for split in _SPLITS}
    return {
        "data": {split: _absolute(path) for split, path in given.items() if path},
        "added": {fingerprint: _absolute(path) for fingerprint, path in added.items()},
    }


def with_local_files(recipe: dict[str, Any], version: Version) -> dict[str, Any]:
    """Return a stored recipe with the paths that its files have here, where they are known."""
    known = _facts(version, "data")
    data = recipe.get("data")
    if not isinstance(data, dict) or data.get("hub"):
        return recipe
    found = {
        split: known[split]
        for split in _SPLITS
        # a file that has moved may be where the recipe names it, from the working folder
        if data.get(split) and split in known and _prefers(known[split], data[split])
    }
    return {**recipe, "data": {**data, **found}}


def added_files(version: Version) -> dict[str, str]:
    """Return the paths of files that refreshes added, by the fingerprint of their examples."""
    return _facts(version, "added")


def _facts(version: Version, key: str) -> dict[str, str]:
    local = version.info.get(LOCAL_KEY)
    found = local.get(key) if isinstance(local, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def _prefers(known: str, stored: str) -> bool:
    return Path(known).exists() or not Path(stored).exists()


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
