"""CoNLL columns: a word a line with its tags, a blank line after each sentence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from adapterhub.data.dataset import Dataset, numbered
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Words may hold other white space, such as a no-break space.
_GAP = re.compile("[ \t]+")
_DOCUMENT_START = "-DOCSTART-"


def parse_conll(text: str, origin: str, columns: Sequence[str]) -> Dataset:
    """Return one example a sentence, each column a list with one value a word.

    Lines whose first column is ``-DOCSTART-`` are left out.

    Args:
        text: of the file.
        origin: how errors name the file.
        columns: their names, in order.

    Raises:
        DataError: naming the line that has another number of columns.
        RecipeError: when the names of the columns are none or repeat.
    """
    if not columns or len(set(columns)) < len(columns):
        raise RecipeError("needs one name a column, each another", place="data.columns")
    examples: list[dict[str, Any]] = []
    lines: list[int] = []
    words: list[list[str]] = []
    # only line feeds end a line; the closing blank line ends the last sentence
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        values = _GAP.split(stripped) if (stripped := line.strip(" \t\r")) else []
        if values and values[0] != _DOCUMENT_START:
            if len(values) != len(columns):
                raise _misfit(len(values), columns, f"{origin} line {number}")
            if not words:
                lines.append(number)
            words.append(values)
        elif words:
            examples.append(dict(zip(columns, map(list, zip(*words, strict=True)), strict=True)))
            words = []
    return numbered(origin, examples, lines)


def _misfit(found: int, columns: Sequence[str], place: str) -> DataError:
    return DataError(
        f"has {found} columns instead of {len(columns)} ({', '.join(columns)})",
        place=place,
        hint="Name the columns of the file, in order, in data.columns",
    )
