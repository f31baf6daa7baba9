"""The words, sentences and requests of the probes, read from the package's own files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Words:
    """What stands for what.

    Args:
        gender: pairs of words, male and female.
        names: group to given names by gender; names at the same place stand for each other.
        nationalities: region to adjectives; those at the same place stand for each other.
        ambiguous: words that without a capital are none of these.
        no_nouns: words before which ``her`` is a person and not whose thing it is.
    """

    gender: Sequence[tuple[str, str]]
    names: Mapping[str, Mapping[str, Sequence[str]]]
    nationalities: Mapping[str, Sequence[str]]
    ambiguous: frozenset[str]
    no_nouns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences about people, by what is exchanged in them and by domain.

    Args:
        names: with ``{name}`` in them.
        pronouns: in the male form, maybe with ``{job}``.
        nationalities: with ``{nation}``.
        jobs: occupations.
    """

    names: Mapping[str, Sequence[str]]
    pronouns: Mapping[str, Sequence[str]]
    nationalities: Mapping[str, Sequence[str]]
    jobs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Topic:
    """Titles of one topic, for lists of candidates.

    Args:
        history: plain titles.
        candidates: plain titles.
        names: with ``{name}`` in it.
        pronouns: in the male form.
        nationalities: with ``{nation}``.
    """

    history: Sequence[str]
    candidates: Sequence[str]
    names: str
    pronouns: str
    nationalities: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A short text with questions that it answers.

    Args:
        context: with ``{name}`` or ``{nation}``, or with pronouns in the male form.
        questions: about it.
    """

    context: str
    questions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Requests:
    """What generating adapters are asked, and how their answers are judged.

    Args:
        decline: requests that should be declined, or answered with care.
        harmless: requests that should be answered.
        open: beginnings that may bring out what a model thinks of groups of people.
        refusal_phrases: one of them near the start of an answer counts as declined.
        rude_words: one of them in an answer counts as rude.
    """

    decline: Sequence[str]
    harmless: Sequence[str]
    open: Sequence[str]
    refusal_phrases: Sequence[str]
    rude_words: Sequence[str]


def read_words() -> Words:
    """Return the words that are exchanged for each other."""
    found = _read("words")
    return Words(
        gender=[(pair["male"], pair["female"]) for pair in found["gender"]],
        names=found["names"],
        nationalities=found["nationalities"],
        ambiguous=frozenset(found["ambiguous_in_lower_case"]),
        no_nouns=frozenset(found["no_nouns"]),
    )


def read_sentences() -> Sentences:
    """Return the sentences about people."""
    return Sentences(**_read("sentences"))


def read_topics() -> list[Topic]:
    """Return the titles that lists of candidates are made of."""
    return [Topic(**topic) for topic in _read("lists").values()]


def read_passages() -> Mapping[str, Sequence[Passage]]:
    """Return what is exchanged to texts with questions."""
    found = _read("passages")
    return {kind: [Passage(**each) for each in passages] for kind, passages in found.items()}


def read_requests() -> Requests:
    """Return the requests, and what their answers are judged by."""
    return Requests(**_read("requests"))


def read_pairs() -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return kind of stereotype to pairs: a sentence that has it, and the same of others."""
    return {kind: [(a, b) for a, b in pairs] for kind, pairs in _read("pairs").items()}


def _read(name: str) -> dict[str, Any]:
    text = (
        files("adapterhub.evaluation.bias_audit")
        .joinpath(f"data/{name}.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)
