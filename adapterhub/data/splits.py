"""Splits, samples and fingerprints that depend only on the examples' content and a seed."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

from adapterhub.data.media import MediaFile
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.dataset import Dataset


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
    kept: list[int] = []
    out: list[int] = []
    for index, digest in enumerate(_digests(dataset, seed, key_fields)):
        # a number in [0, 1]
        draw = int.from_bytes(digest, "big") / 2**128
        (out if draw < held_out else kept).append(index)
    return dataset.select(kept), dataset.select(out)


def drop_duplicates(
    dataset: Dataset, key_fields: Sequence[str] | None = None
) -> tuple[Dataset, int]:
    """Return the first of each group of equal examples, and the number of dropped ones.

    Examples are equal by ``key_fields``, or by all fields.
    """
    seen: set[bytes] = set()
    kept = []
    for index, key in enumerate(_digests(dataset, 0, key_fields)):
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return dataset.select(kept), len(dataset) - len(kept)


def limit(dataset: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return ``count`` examples sampled by content and seed, in order; all for ``None``."""
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if count is None or count >= len(dataset):
        return dataset
    digests = _digests(dataset, seed, None)
    ranked = sorted(range(len(dataset)), key=lambda i: (digests[i], i))
    return dataset.select(sorted(ranked[:count]))


def limit_per_label(dataset: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return up to ``count`` examples of each label, sampled by content and seed, in order.

    Raises:
        RecipeError: when an example has no label.
    """
    if count is None:
        return dataset
    if not all("label" in example for example in dataset.examples):
        raise RecipeError(
            "the examples of this task have no single label",
            place="data.limit_per_label",
            hint="Use data.limit_train",
        )
    digests = _digests(dataset, seed, None)
    drawn: dict[str, int] = {}
    kept = []
    for index in sorted(range(len(dataset)), key=lambda i: (digests[i], i)):
        label = str(dataset.examples[index]["label"])
        drawn[label] = drawn.get(label, 0) + 1
        if drawn[label] <= count:
            kept.append(index)
    return dataset.select(sorted(kept))


def count_repeated(train: Dataset, other: Dataset, fields: Sequence[str]) -> int:
    """Return how many examples of ``other`` equal a training example in ``fields``."""
    known = set(_digests(train, 0, fields))
    return sum(key in known for key in _digests(other, 0, fields))


def exclude(dataset: Dataset, known: Dataset) -> Dataset:
    """Return the examples that do not occur in ``known``."""
    seen = set(_digests(known, 0, None))
    digests = _digests(dataset, 0, None)
    return dataset.select([index for index, digest in enumerate(digests) if digest not in seen])


def require_examples(dataset: Dataset, split: str) -> None:
    """Require a split that is not empty."""
    if not dataset.examples:
        raise DataError(
            f"the {split} split is empty",
            place=f"data.{split}",
            hint="Give more examples, or a larger data.split share",
        )


def _digests(dataset: Dataset, seed: int, fields: Sequence[str] | None) -> list[bytes]:
    """Return a seeded digest of each example, or of some of its fields."""
    key = str(seed).encode()
    return [
        blake2b(_canonical(dataset, index, fields), digest_size=16, key=key).digest()
        for index in range(len(dataset))
    ]


def fingerprint(dataset: Dataset) -> str:
    """Return ``sha256:…`` over the content of the examples, in order.

    Neither the order of fields nor the origin of the examples matters.

    Raises:
        DataError: naming the example that can't be written as JSON.
    """
    digest = sha256()
    for index in range(len(dataset)):
        digest.update(_canonical(dataset, index))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def _canonical(dataset: Dataset, index: int, fields: Sequence[str] | None = None) -> bytes:
    """Return the canonical JSON of an example, or of some fields: UTF-8 with sorted keys.

    A missing field is null. Of an image or recording the digest of its file counts,
    not its name.
    """
    example = dataset.examples[index]
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
