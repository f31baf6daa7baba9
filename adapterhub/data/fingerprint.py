"""A digest over rows: the same rows in the same order have the same, on every machine."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.data.pictures import Picture
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.source import Rows


def fingerprint(rows: Rows) -> str:
    """Return ``sha256:…`` over the rows' content, in order.

    The order of a row's fields does not count, nor does where the rows are from.

    Raises:
        DataError: naming the row that has no form in JSON.
    """
    digest = sha256()
    for index in range(len(rows)):
        digest.update(canonical(rows, index))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def canonical(rows: Rows, index: int, fields: Sequence[str] | None = None) -> bytes:
    """Return the one form of a row in JSON: UTF-8, with sorted keys.

    Of a picture it holds the digest of its file, not its name.

    Args:
        rows: that hold it.
        index: of the row.
        fields: of the row, a missing one counts as null; all that are there where not given.

    Raises:
        DataError: naming the row that holds a value with no form in JSON, such as a date.
    """
    row = rows.rows[index]
    value = row if fields is None else {field: row.get(field) for field in fields}
    try:
        return json.dumps(
            value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_picture_form
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"holds a value with no form in JSON: {error}",
            place=rows.place(index),
            hint="Rows may hold text, numbers, lists and mappings",
        ) from error


def _picture_form(value: Any) -> dict[str, str]:
    if not isinstance(value, Picture):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return {"sha256": value.digest()}
