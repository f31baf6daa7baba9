"""A digest over examples: the same examples in the same order have the same, on every machine."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.data.images import ImageFile
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.dataset import Dataset


def fingerprint(examples: Dataset) -> str:
    """Return ``sha256:…`` over the examples' content, in order.

    The order of an example's fields does not count, nor does where the examples are from.

    Raises:
        DataError: naming the example that has no form in JSON.
    """
    digest = sha256()
    for index in range(len(examples)):
        digest.update(canonical(examples, index))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def canonical(examples: Dataset, index: int, fields: Sequence[str] | None = None) -> bytes:
    """Return the one form of an example in JSON: UTF-8, with sorted keys.

    Of an image it holds the digest of its file, not its name.

    Args:
        examples: that hold it.
        index: of the example.
        fields: of the example, a missing one counts as null; all that are there where not given.

    Raises:
        DataError: naming the example that holds a value with no form in JSON, such as a date.
    """
    example = examples.examples[index]
    value = example if fields is None else {field: example.get(field) for field in fields}
    try:
        return json.dumps(
            value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_image_form
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"holds a value with no form in JSON: {error}",
            place=examples.place(index),
            hint="Examples may hold text, numbers, lists and mappings",
        ) from error


def _image_form(value: Any) -> dict[str, str]:
    if not isinstance(value, ImageFile):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return {"sha256": value.digest()}
