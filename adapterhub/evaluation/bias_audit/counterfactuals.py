"""Rows about people, each with the same row of someone else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapterhub.evaluation.bias_audit.swaps import KINDS, NAMES, NATIONALITIES, PRONOUNS
from adapterhub.evaluation.bias_audit.tokens import tokens_of, with_articles

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.swaps import Swapper, Variant
    from adapterhub.evaluation.bias_audit.templates import Sentences, Words
    from adapterhub.tasks.fields import Example

SENTENCES, ROWS = "own sentences", "given rows"
OWN_HISTORY, OWN_CANDIDATE = "own lists, in the history", "own lists, in a candidate"
ROWS_HISTORY, ROWS_CANDIDATE = "given rows, in the history", "given rows, in a candidate"
OWN_PASSAGES = "own passages"
#: Where rows come from, in the order of a table.
SOURCES = (
    SENTENCES,
    OWN_PASSAGES,
    OWN_HISTORY,
    OWN_CANDIDATE,
    ROWS,
    ROWS_HISTORY,
    ROWS_CANDIDATE,
)
#: Whom the package's own sentences speak of before anything is exchanged.
_FIRST_NAMES, _FIRST_REGION = "English", "Western Europe"
#: Counterfactuals of one sentence: three of seven groups in turn, so that each is met as often.
VARIANTS = 3
#: Rows of a file that are looked through, and that are used for each kind.
_LOOKED_AT, ROWS_A_KIND = 20_000, 40


@dataclass(frozen=True, slots=True)
class Form:
    """A row as it is asked, before anything is exchanged.

    Args:
        source: one of ``SOURCES``.
        row: for ``AuditedTask.rows``.
        fields: in which words are exchanged; in all texts where not given.
    """

    source: str
    row: Example
    fields: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A row and its counterfactuals of one kind.

    Args:
        source: one of ``SOURCES``.
        row: as it is.
        variants: of it, one at least.
    """

    source: str
    row: Example
    variants: tuple[Variant, ...]


def as_it_is(row: Example) -> list[Form]:
    """Return a given row to be asked as it is."""
    return [Form(ROWS, row)]


def own_sentences(swapper: Swapper, sentences: Sentences, words: Words) -> list[Sentence]:
    """Return the package's sentences, filled in, with their counterfactuals.

    A sentence with a name is there once with a man's and once with a woman's.
    """
    texts = {
        NAMES: _all(sentences.names, NAMES, words),
        PRONOUNS: list(_with_jobs(sentences.pronouns, sentences.jobs)),
        NATIONALITIES: _all(sentences.nationalities, NATIONALITIES, words),
    }
    return [
        each
        for kind in KINDS
        for place, text in enumerate(texts[kind])
        for each in sentence(swapper, Form(SENTENCES, {"text": text}), kind, place)
    ]


def sentences_in(
    rows: Sequence[Example],
    swapper: Swapper,
    *,
    forms: Callable[[Example], Sequence[Form]] = as_it_is,
    most: int = ROWS_A_KIND,
    seed: int = 0,
) -> list[Sentence]:
    """Return rows in which something can be exchanged, drawn at random.

    Args:
        rows: with the task's fields.
        swapper: exchanges words.
        forms: in which a row is asked.
        most: rows for each kind and source.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(rows))[:_LOOKED_AT]
    found: dict[tuple[str, str], list[Sentence]] = {}
    for place in order:
        if found and all(len(sentences) >= most for sentences in found.values()):
            break
        for form in forms(rows[int(place)]):
            for kind in KINDS:
                known = found.setdefault((kind, form.source), [])
                if len(known) < most:
                    known += sentence(swapper, form, kind, len(known))
    return [each for sentences in found.values() for each in sentences]


def sentence(swapper: Swapper, form: Form, kind: str, place: int) -> Iterator[Sentence]:
    """Yield the row with some of its counterfactuals, if it has any.

    Args:
        swapper: exchanges words.
        form: in which the row is asked.
        kind: what is exchanged.
        place: number of the row among those of its kind, by which groups are chosen in turn.
    """
    variants = swapper.variants(form.row, kind, form.fields)
    if not variants:
        return
    count = min(VARIANTS, len(variants))
    chosen = [variants[(place * count + turn) % len(variants)] for turn in range(count)]
    yield Sentence(form.source, form.row, tuple(chosen))


def filled(text: str, kind: str, words: Words, place: int) -> Iterator[str]:
    """Yield one of the package's texts filled in: with a name, a man's and a woman's.

    Args:
        text: with ``{name}`` or ``{nation}``, or nothing to fill in.
        kind: what will be exchanged in it.
        words: that may stand there.
        place: number of the text among its like, by which words are chosen in turn.
    """
    if kind == NAMES:
        names = words.names[_FIRST_NAMES]
        for gender in ("female", "male"):
            yield text.format(name=names[gender][place % len(names[gender])])
    elif kind == NATIONALITIES:
        nations = words.nationalities[_FIRST_REGION]
        nation = nations[place % len(nations)]
        tokens = tokens_of(text.format(nation=nation))
        yield "".join(with_articles(tokens, [tokens.index(nation)]))
    else:
        yield text


def _with_jobs(sentences: Mapping[str, Sequence[str]], jobs: Sequence[str]) -> Iterator[str]:
    for domain in sentences.values():
        for text in domain:
            yield from (text.format(job=job) for job in (jobs if "{job}" in text else ("",)))


def _all(sentences: Mapping[str, Sequence[str]], kind: str, words: Words) -> list[str]:
    texts = [text for domain in sentences.values() for text in domain]
    return [one for place, text in enumerate(texts) for one in filled(text, kind, words, place)]
