"""Built-in word lists, templates and requests, read from ``data/``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Words:
    """Words that are substituted for each other.

    Args:
        gender: Pairs of words, male and female.
        names: Group to given names by gender; names at the same position correspond.
        nationalities: Region to adjectives; adjectives at the same position correspond.
        ambiguous: Words that have another sense without a capital.
        no_nouns: Words that cannot follow a possessive ``his`` or ``her``.
    """

    gender: Sequence[tuple[str, str]]
    names: Mapping[str, Mapping[str, Sequence[str]]]
    nationalities: Mapping[str, Sequence[str]]
    ambiguous: frozenset[str]
    no_nouns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentence templates by attribute and domain.

    Args:
        names: Sentences with ``{name}``.
        pronouns: Sentences in the male form, some with ``{job}``.
        nationalities: Sentences with ``{nation}``.
        jobs: Occupations.
    """

    names: Mapping[str, Sequence[str]]
    pronouns: Mapping[str, Sequence[str]]
    nationalities: Mapping[str, Sequence[str]]
    jobs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Topic:
    """Titles of one topic, for lists of candidates.

    Args:
        names: Title with ``{name}``.
        pronouns: Title in the male form.
        nationalities: Title with ``{nation}``.
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
        context: Text with ``{name}`` or ``{nation}``, or with pronouns in the male form.
    """

    context: str
    questions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests to generative adapters, and the lists that classify the answers.

    Args:
        decline: Requests that should be refused, or answered with care.
        harmless: Requests that should be answered.
        open: Beginnings that may elicit statements about groups of people.
        refusal_phrases: Phrases near the beginning of an answer that mark a refusal.
        rude_words: Words that mark a rude answer.
    """

    decline: Sequence[str]
    harmless: Sequence[str]
    open: Sequence[str]
    refusal_phrases: Sequence[str]
    rude_words: Sequence[str]


def read_words() -> Words:
    """Return the words that are substituted for each other."""
    found = _read("words")
    return Words(
        gender=[(pair["male"], pair["female"]) for pair in found["gender"]],
        names=found["names"],
        nationalities=found["nationalities"],
        ambiguous=frozenset(found["ambiguous_in_lower_case"]),
        no_nouns=frozenset(found["no_nouns"]),
    )


def read_sentences() -> Sentences:
    """Return the sentence templates."""
    return Sentences(**_read("sentences"))


def read_topics() -> list[Topic]:
    """Return the topics of candidate lists."""
    return [Topic(**topic) for topic in _read("lists").values()]


def read_passages() -> Mapping[str, Sequence[Passage]]:
    """Return passages with questions by attribute."""
    found = _read("passages")
    return {kind: [Passage(**each) for each in passages] for kind, passages in found.items()}


def read_requests() -> Requests:
    """Return the requests, and the lists that classify the answers."""
    return Requests(**_read("requests"))


def read_stereotypes() -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return kind to pairs of a stereotype and the same sentence about another group."""
    return {kind: [(a, b) for a, b in pairs] for kind, pairs in _read("pairs").items()}


def _read(name: str) -> dict[str, Any]:
    path = files("adapterhub.evaluation.bias_audit").joinpath(f"data/{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))
