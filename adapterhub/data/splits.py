"""Splits, samples and fingerprints that depend only on the examples' content and a seed."""

from __future__ import annotations

import json
from array import array
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.data.media import MediaFile
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from adapterhub.data.dataset import Dataset

_DIGEST_BYTES = 16


def split_examples(
    dataset: Dataset, *, held_out: float, seed: int, key_fields: Sequence[str] | None = None
) -> tuple[Dataset, Dataset]:
    """Return the kept and the held-out examples.

    A hash of content and seed decides: equal examples stay together, and adding or reordering
    examples moves no other. So the share is met on average, not exactly.

    Args:
        dataset: Dataset to split.
        held_out: Expected share of held-out examples, in [0, 1).
        seed: Seed of the split.
        key_fields: Fields by which examples are equal; all fields where ``None``.

    Raises:
        DataError: naming the example that can't be written as JSON.
        RecipeError: when the share is out of range.
    """
    if not 0.0 <= held_out < 1.0:
        raise RecipeError(
            f"a share must be at least 0 and below 1, not {held_out:g}", place="data.split"
        )
    kept, out = array("q"), array("q")
    raw = _digests(dataset, seed, key_fields).tobytes()
    for index in range(len(dataset)):
        # a number in [0, 1]
        digest = raw[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES]
        draw = int.from_bytes(digest, "big") / 2 ** (8 * _DIGEST_BYTES)
        (out if draw < held_out else kept).append(index)
    return dataset.select(kept), dataset.select(out)


def drop_duplicates(
    dataset: Dataset, key_fields: Sequence[str] | None = None
) -> tuple[Dataset, int]:
    """Return the first of each group of equal examples, and the number of dropped ones.

    Examples are equal by ``key_fields``, or by all fields.
    """
    _, first = np.unique(_digests(dataset, 0, key_fields), return_index=True)
    kept = dataset.select(_indices(np.sort(first)))
    return kept, len(dataset) - len(kept)


def limit(dataset: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return ``count`` examples sampled by content and seed, in order; all for ``None``."""
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if count is None or count >= len(dataset):
        return dataset
    ranked = np.argsort(_digests(dataset, seed, None), kind="stable")
    return dataset.select(_indices(np.sort(ranked[:count])))


def limit_per_label(dataset: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return up to ``count`` examples of each label, sampled by content and seed, in order.

    Raises:
        RecipeError: when an example has no label.
    """
    if count is None:
        return dataset
    if any("label" not in example for example in dataset.examples):
        raise RecipeError(
            "the examples of this task have no single label",
            place="data.limit_per_label",
            hint="Use data.limit_train",
        )
    drawn: dict[str, int] = {}
    kept = array("q")
    for index in np.argsort(_digests(dataset, seed, None), kind="stable"):
        label = str(dataset.examples[index]["label"])
        drawn[label] = drawn.get(label, 0) + 1
        if drawn[label] <= count:
            kept.append(index)
    return dataset.select(sorted(kept))


def count_repeated(train: Dataset, other: Dataset, fields: Sequence[str]) -> int:
    """Return how many examples of ``other`` equal a training example in ``fields``."""
    known = np.isin(_digests(other, 0, fields), _digests(train, 0, fields))
    return int(known.sum())


def exclude(dataset: Dataset, known: Dataset) -> Dataset:
    """Return the examples that do not occur in ``known``."""
    seen = np.isin(_digests(dataset, 0, None), _digests(known, 0, None))
    return dataset.select(_indices(np.flatnonzero(~seen)))


def require_examples(dataset: Dataset, split: str) -> None:
    """Require a split that is not empty."""
    if not dataset.examples:
        raise DataError(
            f"the {split} split is empty",
            place=f"data.{split}",
            hint="Give more examples, or a larger data.split share",
        )


def _indices(found: NDArray[np.int64]) -> array[int]:
    return array("q", found.astype(np.int64).tobytes())


def _digests(dataset: Dataset, seed: int, fields: Sequence[str] | None) -> NDArray[np.bytes_]:
    """Return a seeded digest of each example, or of some of its fields, ``[examples]``."""
    key = str(seed).encode()
    digests = bytearray()
    for index, example in enumerate(dataset.examples):
        content = _canonical(dataset, index, example, fields)
        digests += blake2b(content, digest_size=_DIGEST_BYTES, key=key).digest()
    # numpy compares all bytes, also where a digest ends in zeros
    return np.frombuffer(digests, dtype=f"S{_DIGEST_BYTES}")


def fingerprint(dataset: Dataset) -> str:
    """Return ``sha256:…`` over the content of the examples, in order.

    Neither the order of fields nor the origin of the examples matters.

    Raises:
        DataError: naming the example that can't be written as JSON.
    """
    digest = sha256()
    for index, example in enumerate(dataset.examples):
        digest.update(_canonical(dataset, index, example))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def _canonical(
    dataset: Dataset, index: int, example: dict[str, Any], fields: Sequence[str] | None = None
) -> bytes:
    """Return the canonical JSON of an example, or of some fields: UTF-8 with sorted keys.

    A missing field is null. Of an image or recording the digest of its file counts,
    not its name.
    """
    value = example if fields is None else {field: example.get(field) for field in fields}
    try:
        return json.dumps(
            value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_media_json
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"holds a value that is not JSON: {error}",
            place=dataset.place(index),
            hint="Examples may hold text, numbers, lists and mappings",
        ) from error


def _media_json(value: Any) -> dict[str, str]:
    if not isinstance(value, MediaFile):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return {"sha256": value.digest()}
