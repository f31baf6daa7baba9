"""Splits that depend on the examples' content and a seed, on nothing else."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from adapterhub.data.fingerprint import canonical, fingerprint
from adapterhub.data.labels import collect_labels
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.dataset import Dataset

__all__ = [
    "collect_labels",
    "drop_duplicates",
    "fingerprint",
    "limit",
    "limit_per_label",
    "repeated",
    "require_examples",
    "split_examples",
    "unlike",
]


def split_examples(
    examples: Dataset, *, held_out: float, seed: int, key_fields: Sequence[str] | None = None
) -> tuple[Dataset, Dataset]:
    """Return the examples kept and the examples held out.

    An example's side is decided by a hash of its content and the seed: equal examples stay together,
    and adding or reordering examples moves no other example. So the share is met on average and not
    to the example.

    Args:
        examples: to split.
        held_out: expected share of examples held out, in [0, 1).
        seed: of the split.
        key_fields: examples equal in these stay together; all fields where not given.

    Raises:
        DataError: naming the example that has no form in JSON.
        RecipeError: when the share is out of range.
    """
    if not 0.0 <= held_out < 1.0:
        raise RecipeError(
            f"a share must be at least 0 and below 1, not {held_out:g}", place="data.split"
        )
    kept: list[int] = []
    out: list[int] = []
    for index, digest in enumerate(_digests(examples, seed, key_fields)):
        # a number in [0, 1]
        draw = int.from_bytes(digest, "big") / 2**128
        (out if draw < held_out else kept).append(index)
    return examples.select(kept), examples.select(out)


def drop_duplicates(
    examples: Dataset, key_fields: Sequence[str] | None = None
) -> tuple[Dataset, int]:
    """Return the examples without repeats, the first of each kept, and how many were dropped.

    Args:
        examples: to look through.
        key_fields: examples equal in these are repeats; all fields where not given.
    """
    seen: set[bytes] = set()
    kept = []
    for index, key in enumerate(_digests(examples, 0, key_fields)):
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return examples.select(kept), len(examples) - len(kept)


def limit(examples: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return ``count`` examples drawn by content and seed, in their old order; all for ``None``.

    Raises:
        ValueError: when ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if count is None or count >= len(examples):
        return examples
    digests = _digests(examples, seed, None)
    ranked = sorted(range(len(examples)), key=lambda i: (digests[i], i))
    return examples.select(sorted(ranked[:count]))


def limit_per_label(examples: Dataset, count: int | None, *, seed: int) -> Dataset:
    """Return ``count`` examples of each label, drawn by content and seed, in their old order.

    All examples for ``None``; of a label that has fewer, all of its examples.

    Raises:
        RecipeError: when the examples have no label each.
    """
    if count is None:
        return examples
    if not all("label" in example for example in examples.examples):
        raise RecipeError(
            "the examples of this task have no label each",
            place="data.limit_per_label",
            hint="Use data.limit_train",
        )
    digests = _digests(examples, seed, None)
    drawn: dict[str, int] = {}
    kept = []
    for index in sorted(range(len(examples)), key=lambda i: (digests[i], i)):
        label = str(examples.examples[index]["label"])
        drawn[label] = drawn.get(label, 0) + 1
        if drawn[label] <= count:
            kept.append(index)
    return examples.select(sorted(kept))


def repeated(train: Dataset, other: Dataset, fields: Sequence[str]) -> int:
    """Return how many examples of ``other`` repeat the ``fields`` of a training example."""
    known = set(_digests(train, 0, fields))
    return sum(key in known for key in _digests(other, 0, fields))


def unlike(examples: Dataset, known: Dataset) -> Dataset:
    """Return the examples that repeat no example of ``known`` with all its fields."""
    seen = set(_digests(known, 0, None))
    digests = _digests(examples, 0, None)
    return examples.select([index for index, digest in enumerate(digests) if digest not in seen])


def require_examples(examples: Dataset, split: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: naming it.
    """
    if not examples.examples:
        raise DataError(
            f"the {split} split is empty",
            place=f"data.{split}",
            hint="Give more examples, or a larger data.split share",
        )


def _digests(examples: Dataset, seed: int, fields: Sequence[str] | None) -> list[bytes]:
    """Return a seeded digest of each example, or of these fields of it."""
    key = str(seed).encode()
    return [
        blake2b(canonical(examples, index, fields), digest_size=16, key=key).digest()
        for index in range(len(examples))
    ]
