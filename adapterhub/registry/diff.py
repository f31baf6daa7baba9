"""Differences between two artifacts: recipe, data, metrics, labels and tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, deserialize

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEIGHTS_NAME = "adapter_model.safetensors"
#: Data types of safetensors and their names in numpy.
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs.

    Args:
        what: Path of the value, such as ``recipe.train.epochs``.
        old: Value in the first version; ``None`` if it is missing.
        new: Value in the second version; ``None`` if it is missing.
    """

    what: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor of both versions that has the same shape and other values.

    Args:
        name: Key in peft's format.
        relative: Norm of the difference divided by the norm of the first tensor; ``None`` if all
            its values are zero.
    """

    name: str
    relative: float | None


@dataclass(frozen=True, slots=True)
class ShapeChange:
    """A tensor of both versions that has another shape, as with another rank.

    Args:
        name: Key in peft's format.
        old: Shape in the first version.
        new: Shape in the second version.
    """

    name: str
    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All differences between two versions.

    Args:
        changes: Changes of the manifest, except for its list of files.
        missing: Tensors of the first version only.
        added: Tensors of the second version only.
        tensors: Tensors of equal shape that differ.
        reshaped: Tensors of another shape.
        equal: Number of tensors that are bitwise equal.
    """

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    tensors: tuple[TensorChange, ...]
    reshaped: tuple[ShapeChange, ...]
    equal: int


def compare(first: Path, second: Path) -> Difference:
    """Compare two artifact folders."""
    old, new = (_tensors(folder) for folder in (first, second))
    both = sorted(old.keys() & new.keys())
    reshaped = tuple(
        ShapeChange(name, tuple(old[name].shape), tuple(new[name].shape))
        for name in both
        if old[name].shape != new[name].shape
    )
    same_shape = [name for name in both if old[name].shape == new[name].shape]
    found = [TensorChange(name, _relative(old[name], new[name])) for name in same_shape]
    changed = tuple(each for each in found if each.relative != 0.0)
    return Difference(
        changes=tuple(_changes("", _document(first), _document(second))),
        missing=tuple(sorted(old.keys() - new.keys())),
        added=tuple(sorted(new.keys() - old.keys())),
        tensors=changed,
        reshaped=reshaped,
        equal=len(found) - len(changed),
    )


def _document(folder: Path) -> dict[str, Any]:
    manifest = asdict(Manifest.from_json((folder / MANIFEST_NAME).read_bytes()))
    for name in ("files", "schema_version"):
        del manifest[name]
    return manifest


def _changes(place: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes(f"{place}.{key}" if place else key, old.get(key), new.get(key))
    elif old != new:
        yield Change(place, old, new)


def _tensors(folder: Path) -> dict[str, _Stored]:
    path = folder / WEIGHTS_NAME
    try:
        stored = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _Stored(**tensor) for name, tensor in stored}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot be read: {error}", place=str(path)) from error


def _relative(old: _Stored, new: _Stored) -> float | None:
    """Return the relative change between two tensors of one shape."""
    if (old.dtype, old.data) == (new.dtype, new.data):
        return 0.0
    before, after = old.values(), new.values()
    norm, change = float(np.linalg.norm(before)), float(np.linalg.norm(after - before))
    if norm:
        return change / norm
    return None if change else 0.0


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as stored in a safetensors file."""

    shape: list[int]
    dtype: str
    data: bytes

    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the values as a flat array of float64."""
        if self.dtype == "BF16":
            # the upper half of a float32
            wide = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            return wide.view("<f4").astype(np.float64)
        if self.dtype not in _TYPES:
            raise ArtifactError(f"tensors of type {self.dtype} cannot be compared")
        return np.frombuffer(self.data, _TYPES[self.dtype]).astype(np.float64)
