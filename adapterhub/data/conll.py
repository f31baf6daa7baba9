"""CoNLL columns and CoNLL-U: one word a line, a blank line after each sentence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from adapterhub.data.dataset import Dataset
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Separator of CoNLL columns; words may hold other white space, such as a no-break space.
_GAP = re.compile("[ \t]+")
_DOCUMENT_START = "-DOCSTART-"
#: Comments of CoNLL-U. Source: https://universaldependencies.org/format.html
_COMMENT = re.compile(r"#\s*(sent_id|text|newdoc|newpar|global\.columns)\b")
#: Columns of CoNLL-U, in order. Source: https://universaldependencies.org/format.html
_CONLLU = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
#: Key of MISC that holds a named-entity tag, as stanza and others write it (``NER=B-PER``).
_ENTITY_KEY = "ner"


def parse_conll(lines: Iterable[str], origin: str, columns: Sequence[str]) -> Dataset:
    """Return one example per sentence, with a list per column and a value per word.

    Lines whose first column is ``-DOCSTART-`` are skipped, and so are comments before a sentence.

    Raises:
        DataError: naming the line with another number of columns.
        RecipeError: when there are no column names or duplicates.
    """
    if not columns or len(set(columns)) < len(columns):
        raise RecipeError("needs a distinct name for each column", place="data.columns")
    return Dataset.read(origin, _sentences(lines, origin, columns))


def parse_conllu(lines: Iterable[str], origin: str) -> Dataset:
    """Return one example per sentence of a CoNLL-U file, with a list per column.

    Multiword tokens and empty nodes are skipped. ``tags`` are named-entity tags, where the last
    column has them as ``NER=B-PER``; a word without one has the tag ``O``.

    Raises:
        DataError: naming the line without the ten columns of the format.
    """
    return Dataset.read(origin, _conllu_sentences(lines, origin))


def _sentences(
    lines: Iterable[str], origin: str, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    words: list[list[str]] = []
    start = 0
    for number, line in enumerate(lines, start=1):
        values = _GAP.split(stripped) if (stripped := line.strip(" \t\r\n")) else []
        if values and not words and _is_comment(stripped, values, columns):
            continue
        if values and values[0] != _DOCUMENT_START:
            if len(values) != len(columns):
                raise _wrong_columns(len(values), columns, f"{origin} line {number}")
            if not words:
                start = number
            words.append(values)
        elif words:
            yield start, _by_column(columns, words)
            words = []
    if words:
        yield start, _by_column(columns, words)


def _conllu_sentences(lines: Iterable[str], origin: str) -> Iterator[tuple[int, dict[str, Any]]]:
    words: list[list[str]] = []
    start = 0
    for number, line in enumerate([*lines, "\n"], start=1):
        stripped = line.rstrip("\r\n")
        if stripped.startswith("#"):
            continue
        if not stripped.strip():
            if words:
                yield start, _with_entities(_by_column(_CONLLU, words))
            words = []
            continue
        values = stripped.split("\t")
        if len(values) != len(_CONLLU):
            raise DataError(
                f"has {len(values)} columns separated by tabs instead of {len(_CONLLU)}",
                place=f"{origin} line {number}",
                hint="CoNLL-U has ten; for other columns set data.format: conll and data.columns",
            )
        if not words:
            start = number
        # a range or a decimal is a multiword token or an empty node
        if values[0].isdigit():
            words.append(values)


def _with_entities(sentence: dict[str, Any]) -> dict[str, Any]:
    tags = [_entity_tag(misc) for misc in sentence["misc"]]
    if all(tag is None for tag in tags):
        return sentence
    return {**sentence, "tags": [tag or "O" for tag in tags]}


def _entity_tag(misc: str) -> str | None:
    pairs = (part.partition("=") for part in misc.split("|"))
    return next((value for key, _, value in pairs if key.lower() == _ENTITY_KEY), None)


def _by_column(columns: Sequence[str], words: Sequence[Sequence[str]]) -> dict[str, Any]:
    return dict(zip(columns, map(list, zip(*words, strict=True)), strict=True))


def _is_comment(line: str, values: Sequence[str], columns: Sequence[str]) -> bool:
    """Return whether a line before a sentence is a comment, as in CoNLL-U."""
    if not line.startswith("#"):
        return False
    # a word may begin with the sign, and its line then has all columns
    return len(values) != len(columns) or _COMMENT.match(line) is not None


def _wrong_columns(found: int, columns: Sequence[str], place: str) -> DataError:
    return DataError(
        f"has {found} columns instead of {len(columns)} ({', '.join(columns)})",
        place=place,
        hint="Name the columns of the file, in order, in data.columns",
    )
