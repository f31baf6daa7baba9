"""Examples about people with their counterfactuals, from built-in templates and given data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapterhub.evaluation.bias_audit.substitution import (
    ATTRIBUTES,
    NAMES,
    NATIONALITIES,
    PRONOUNS,
    tokenize,
    with_articles,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.substitution import Counterfactual, Substituter
    from adapterhub.evaluation.bias_audit.templates import Sentences, Words
    from adapterhub.tasks.fields import Example

SENTENCES, GIVEN = "built-in sentences", "given examples"
PASSAGES = "built-in passages"
LISTS_HISTORY, LISTS_CANDIDATE = "built-in lists, history", "built-in lists, candidate"
GIVEN_HISTORY, GIVEN_CANDIDATE = "given examples, history", "given examples, candidate"
#: Sources of examples in table order.
SOURCES = (
    SENTENCES,
    PASSAGES,
    LISTS_HISTORY,
    LISTS_CANDIDATE,
    GIVEN,
    GIVEN_HISTORY,
    GIVEN_CANDIDATE,
)
#: Groups that the built-in templates are filled with.
_TEMPLATE_NAMES, _TEMPLATE_REGION = "English", "Western Europe"
#: Counterfactuals per example: three of seven groups in rotation, so that each is equally frequent.
_COUNTERFACTUALS = 3
#: Maximum number of given examples that are searched, and that are used for each attribute.
_SEARCHED, EXAMPLES_PER_ATTRIBUTE = 20_000, 40


@dataclass(frozen=True, slots=True)
class AuditInput:
    """An example before any substitution.

    Args:
        fields: Fields in which words are substituted; default all texts.
    """

    source: str
    example: Example
    fields: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class CounterfactualSet:
    """An example and its counterfactuals for one attribute."""

    source: str
    example: Example
    counterfactuals: tuple[Counterfactual, ...]


def sentence_sets(
    substituter: Substituter, sentences: Sentences, words: Words
) -> list[CounterfactualSet]:
    """Return the built-in sentences with their counterfactuals.

    A sentence with a name occurs once with a male and once with a female name.
    """
    texts = {
        NAMES: _filled(sentences.names, NAMES, words),
        PRONOUNS: list(_with_jobs(sentences.pronouns, sentences.jobs)),
        NATIONALITIES: _filled(sentences.nationalities, NATIONALITIES, words),
    }
    return [
        each
        for attribute in ATTRIBUTES
        for place, text in enumerate(texts[attribute])
        for each in counterfactual_sets(
            substituter, AuditInput(SENTENCES, {"text": text}), attribute, place
        )
    ]


def given_sets(
    examples: Sequence[Example],
    substituter: Substituter,
    *,
    inputs: Callable[[Example], Sequence[AuditInput]] | None = None,
    limit: int = EXAMPLES_PER_ATTRIBUTE,
    seed: int = 0,
) -> list[CounterfactualSet]:
    """Sample given examples in which words can be substituted.

    Args:
        inputs: Function from an example to the inputs to audit; default the example itself.
        limit: Maximum number of examples per attribute and source.
    """
    order = np.random.default_rng(seed).permutation(len(examples))[:_SEARCHED]
    found: dict[tuple[str, str], list[CounterfactualSet]] = {}
    for place in order:
        if found and all(len(sets) >= limit for sets in found.values()):
            break
        example = examples[int(place)]
        for audit_input in inputs(example) if inputs else [AuditInput(GIVEN, example)]:
            for attribute in ATTRIBUTES:
                sets = found.setdefault((attribute, audit_input.source), [])
                if len(sets) < limit:
                    sets += counterfactual_sets(substituter, audit_input, attribute, len(sets))
    return [each for sets in found.values() for each in sets]


def counterfactual_sets(
    substituter: Substituter, audit_input: AuditInput, attribute: str, place: int
) -> Iterator[CounterfactualSet]:
    """Yield an example with some of its counterfactuals, if it has any.

    Args:
        place: Position among the examples of this attribute, by which groups rotate.
    """
    found = substituter.counterfactuals(audit_input.example, attribute, audit_input.fields)
    if not found:
        return
    count = min(_COUNTERFACTUALS, len(found))
    chosen = [found[(place * count + turn) % len(found)] for turn in range(count)]
    yield CounterfactualSet(audit_input.source, audit_input.example, tuple(chosen))


def fill_template(text: str, attribute: str, words: Words, place: int) -> Iterator[str]:
    """Yield a template filled in: with a male and a female name for ``names``, else once.

    Args:
        text: Template with ``{name}``, ``{nation}`` or neither.
        place: Position among the templates, by which words rotate.
    """
    if attribute == NAMES:
        names = words.names[_TEMPLATE_NAMES]
        for gender in ("female", "male"):
            yield text.format(name=names[gender][place % len(names[gender])])
    elif attribute == NATIONALITIES:
        nations = words.nationalities[_TEMPLATE_REGION]
        nation = nations[place % len(nations)]
        tokens = tokenize(text.format(nation=nation))
        yield "".join(with_articles(tokens, [tokens.index(nation)]))
    else:
        yield text


def _with_jobs(sentences: Mapping[str, Sequence[str]], jobs: Sequence[str]) -> Iterator[str]:
    for domain in sentences.values():
        for text in domain:
            yield from (text.format(job=job) for job in (jobs if "{job}" in text else ("",)))


def _filled(sentences: Mapping[str, Sequence[str]], attribute: str, words: Words) -> list[str]:
    texts = [text for domain in sentences.values() for text in domain]
    return [
        filled
        for place, text in enumerate(texts)
        for filled in fill_template(text, attribute, words, place)
    ]
