"""Splits that depend on the rows' content and a seed, on nothing else."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from adapterhub.data.fingerprint import canonical, fingerprint
from adapterhub.data.labels import collect_labels
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.source import Rows

__all__ = [
    "collect_labels",
    "drop_duplicates",
    "fingerprint",
    "limit",
    "limit_per_label",
    "repeated",
    "require_rows",
    "split_rows",
    "unlike",
]


def split_rows(
    rows: Rows, *, held_out: float, seed: int, key_fields: Sequence[str] | None = None
) -> tuple[Rows, Rows]:
    """Return the rows kept and the rows held out.

    A row's side is decided by a hash of its content and the seed: equal rows stay together,
    and adding or reordering rows moves no other row. So the share is met on average and not
    to the row.

    Args:
        rows: to split.
        held_out: expected share of rows held out, in [0, 1).
        seed: of the split.
        key_fields: rows equal in these stay together; all fields where not given.

    Raises:
        DataError: naming the row that has no form in JSON.
        RecipeError: when the share is out of range.
    """
    if not 0.0 <= held_out < 1.0:
        raise RecipeError(
            f"a share must be at least 0 and below 1, not {held_out:g}", place="data.split"
        )
    kept: list[int] = []
    out: list[int] = []
    for index, digest in enumerate(_digests(rows, seed, key_fields)):
        # a number in [0, 1]
        draw = int.from_bytes(digest, "big") / 2**128
        (out if draw < held_out else kept).append(index)
    return rows.take(kept), rows.take(out)


def drop_duplicates(rows: Rows, key_fields: Sequence[str] | None = None) -> tuple[Rows, int]:
    """Return the rows without repeats, the first of each kept, and how many were dropped.

    Args:
        rows: to look through.
        key_fields: rows equal in these are repeats; all fields where not given.
    """
    seen: set[bytes] = set()
    kept = []
    for index, key in enumerate(_digests(rows, 0, key_fields)):
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return rows.take(kept), len(rows) - len(kept)


def limit(rows: Rows, count: int | None, *, seed: int) -> Rows:
    """Return ``count`` rows drawn by content and seed, in their old order; all for ``None``.

    Raises:
        ValueError: when ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if count is None or count >= len(rows):
        return rows
    digests = _digests(rows, seed, None)
    ranked = sorted(range(len(rows)), key=lambda i: (digests[i], i))
    return rows.take(sorted(ranked[:count]))


def limit_per_label(rows: Rows, count: int | None, *, seed: int) -> Rows:
    """Return ``count`` rows of each label, drawn by content and seed, in their old order.

    All rows for ``None``; of a label that has fewer, all of its rows.

    Raises:
        RecipeError: when the rows have no label each.
    """
    if count is None:
        return rows
    if not all("label" in row for row in rows.rows):
        raise RecipeError(
            "the rows of this task have no label each",
            place="data.limit_per_label",
            hint="Use data.limit_train",
        )
    digests = _digests(rows, seed, None)
    drawn: dict[str, int] = {}
    kept = []
    for index in sorted(range(len(rows)), key=lambda i: (digests[i], i)):
        label = str(rows.rows[index]["label"])
        drawn[label] = drawn.get(label, 0) + 1
        if drawn[label] <= count:
            kept.append(index)
    return rows.take(sorted(kept))


def repeated(train: Rows, other: Rows, fields: Sequence[str]) -> int:
    """Return how many rows of ``other`` repeat the ``fields`` of a training row."""
    known = set(_digests(train, 0, fields))
    return sum(key in known for key in _digests(other, 0, fields))


def unlike(rows: Rows, known: Rows) -> Rows:
    """Return the rows that repeat no row of ``known`` with all its fields."""
    seen = set(_digests(known, 0, None))
    digests = _digests(rows, 0, None)
    return rows.take([index for index, digest in enumerate(digests) if digest not in seen])


def require_rows(rows: Rows, split: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: naming it.
    """
    if not rows.rows:
        raise DataError(
            f"the {split} split is empty",
            place=f"data.{split}",
            hint="Give more rows, or a larger data.split share",
        )


def _digests(rows: Rows, seed: int, fields: Sequence[str] | None) -> list[bytes]:
    """Return a seeded digest of each row, or of these fields of it."""
    key = str(seed).encode()
    return [
        blake2b(canonical(rows, index, fields), digest_size=16, key=key).digest()
        for index in range(len(rows))
    ]
