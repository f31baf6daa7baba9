"""Sentences about people, each with the same sentence of someone else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapterhub.probes.swaps import KINDS, NAMES, NATIONALITIES, PRONOUNS
from adapterhub.probes.tokens import tokens_of, with_articles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.probes.swaps import Swapper, Variant
    from adapterhub.probes.word_lists import Sentences, Words
    from adapterhub.tasks.base import Row

SENTENCES, ROWS = "sentences", "rows"
#: Whom the package's own sentences speak of before anything is exchanged.
_FIRST_NAMES, _FIRST_REGION = "English", "Western Europe"
#: Counterfactuals of one sentence: three of seven groups in turn, so that each is met as often.
VARIANTS = 3
#: Rows of a file that are looked through, and that are used for each kind.
_LOOKED_AT, ROWS_A_KIND = 20_000, 40


@dataclass(frozen=True, slots=True)
class Sentence:
    """A row and its counterfactuals of one kind.

    Args:
        source: ``sentences`` of the package, or ``rows`` that were given.
        row: as it is.
        variants: of it, one at least.
    """

    source: str
    row: Row
    variants: tuple[Variant, ...]


def own_sentences(swapper: Swapper, sentences: Sentences, words: Words) -> list[Sentence]:
    """Return the package's sentences, filled in, with their counterfactuals.

    A sentence with a name is there once with a man's and once with a woman's.
    """
    filled = {
        NAMES: list(_with_names(sentences.names, words)),
        PRONOUNS: list(_with_jobs(sentences.pronouns, sentences.jobs)),
        NATIONALITIES: list(_with_nations(sentences.nationalities, words)),
    }
    return [
        each
        for kind in KINDS
        for place, text in enumerate(filled[kind])
        for each in _sentence(swapper, SENTENCES, {"text": text}, kind, place)
    ]


def sentences_in(
    rows: Sequence[Row], swapper: Swapper, *, most: int = ROWS_A_KIND, seed: int = 0
) -> list[Sentence]:
    """Return rows in which something can be exchanged, drawn at random.

    Args:
        rows: with the task's fields.
        swapper: exchanges words.
        most: rows for each kind.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(rows))[:_LOOKED_AT]
    found: dict[str, list[Sentence]] = {kind: [] for kind in KINDS}
    for place in order:
        wanted = [kind for kind in KINDS if len(found[kind]) < most]
        if not wanted:
            break
        for kind in wanted:
            found[kind] += _sentence(swapper, ROWS, rows[int(place)], kind, len(found[kind]))
    return [each for sentences in found.values() for each in sentences]


def _sentence(swapper: Swapper, source: str, row: Row, kind: str, place: int) -> Iterator[Sentence]:
    """Yield the row with some of its counterfactuals, if it has any."""
    variants = swapper.variants(row, kind)
    if not variants:
        return
    count = min(VARIANTS, len(variants))
    chosen = [variants[(place * count + turn) % len(variants)] for turn in range(count)]
    yield Sentence(source, row, tuple(chosen))


def _with_names(sentences: Mapping[str, Sequence[str]], words: Words) -> Iterator[str]:
    names = words.names[_FIRST_NAMES]
    for place, text in enumerate(_all(sentences)):
        for gender in ("female", "male"):
            yield text.format(name=names[gender][place % len(names[gender])])


def _with_jobs(sentences: Mapping[str, Sequence[str]], jobs: Sequence[str]) -> Iterator[str]:
    for text in _all(sentences):
        yield from (text.format(job=job) for job in (jobs if "{job}" in text else ("",)))


def _with_nations(sentences: Mapping[str, Sequence[str]], words: Words) -> Iterator[str]:
    nations = words.nationalities[_FIRST_REGION]
    for place, text in enumerate(_all(sentences)):
        nation = nations[place % len(nations)]
        tokens = tokens_of(text.format(nation=nation))
        yield "".join(with_articles(tokens, [tokens.index(nation)]))


def _all(sentences: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for domain in sentences.values():
        yield from domain
