"""Splits that depend on the rows' content and a seed, on nothing else."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.data.source import Rows


def split_rows(rows: Rows, *, held_out: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows kept and the rows held out.

    A row's side is decided by a hash of its content and the seed: equal rows stay together,
    and adding or reordering rows moves no other row.

    Args:
        rows: to split.
        held_out: expected share of rows held out.
        seed: of the split.
    """
    out = [index for index, row in enumerate(rows.rows) if _draw(row, seed) < held_out]
    chosen = set(out)
    kept = [index for index in range(len(rows)) if index not in chosen]
    return rows.take(kept), rows.take(out)


def drop_duplicates(rows: Rows) -> tuple[Rows, int]:
    """Return the rows without repeats, the first of each kept, and how many were dropped."""
    seen: set[bytes] = set()
    kept = []
    for index, row in enumerate(rows.rows):
        key = _digest(row, 0)
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return rows.take(kept), len(rows) - len(kept)


def limit(rows: Rows, count: int | None, *, seed: int) -> Rows:
    """Return ``count`` rows drawn by content and seed, in their old order; all for ``None``."""
    if count is None or count >= len(rows):
        return rows
    ranked = sorted(range(len(rows)), key=lambda i: (_digest(rows.rows[i], seed), i))
    return rows.take(sorted(ranked[:count]))


def repeated(train: Rows, other: Rows, fields: Sequence[str]) -> int:
    """Return how many rows of ``other`` repeat the ``fields`` of a training row."""

    def key(row: Mapping[str, Any]) -> bytes:
        return _digest({field: row.get(field) for field in fields}, 0)

    known = {key(row) for row in train.rows}
    return sum(key(row) in known for row in other.rows)


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


def collect_labels(
    train: Rows, others: Mapping[str, Rows], *, field: str, sequence: bool = False
) -> tuple[str, ...]:
    """Return the label names of the training rows, sorted; numbers sort as numbers.

    Args:
        train: decides the labels.
        others: split name to rows; they must not have labels of their own.
        field: that holds the label.
        sequence: whether the field holds a list of labels.

    Raises:
        DataError: naming split, row and label, when a label is not in training.
    """

    def labels_of(row: Mapping[str, Any]) -> list[str]:
        value = row[field]
        return [str(each) for each in value] if sequence else [str(value)]

    names = {name for row in train.rows for name in labels_of(row)}
    for split, rows in others.items():
        for index, row in enumerate(rows.rows):
            for name in labels_of(row):
                if name not in names:
                    raise DataError(
                        f"the label {name!r} occurs in the {split} split only",
                        place=rows.place(index),
                        hint="No training row has it, so it can't be learned",
                    )
    numeric = all(name.lstrip("-").isdigit() for name in names)
    return tuple(sorted(names, key=int if numeric else str))


def fingerprint(rows: Rows) -> str:
    """Return ``sha256:…`` over the rows' content, in order."""
    digest = sha256()
    for row in rows.rows:
        digest.update(_canonical(row))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def _draw(row: Mapping[str, Any], seed: int) -> float:
    """Return a number in [0, 1) that only the row's content and the seed decide."""
    return int.from_bytes(_digest(row, seed), "big") / 2**128


def _digest(row: Mapping[str, Any], seed: int) -> bytes:
    return blake2b(_canonical(row), digest_size=16, key=str(seed).encode()).digest()


def _canonical(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode()
