"""Substitution of names, gendered words and nationalities, which makes counterfactuals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.templates import Words
    from adapterhub.tasks.fields import Example

NAMES, PRONOUNS, NATIONALITIES = "names", "pronouns", "nationalities"
#: Attributes of people that are substituted.
ATTRIBUTES = (NAMES, PRONOUNS, NATIONALITIES)
#: Fields of an example that are not text about the person.
_NO_TEXT = frozenset({"label", "tags", "answers", "group", "others"})
#: Field with a list of words; items of other lists are texts.
_WORDS = "tokens"
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
#: Beginnings of words that start with a vowel letter but a consonant sound.
_CONSONANT_SOUND = ("eu", "uk", "uni", "us")
#: Gendered forms that do not depend on context; ``his`` and ``her`` do.
_PRONOUN_FORMS = {
    "he": "she",
    "she": "he",
    "him": "her",
    "himself": "herself",
    "herself": "himself",
    "hers": "his",
}
_MALE = frozenset({"he", "him", "his", "himself"})
_FEMALE = frozenset({"she", "her", "hers", "herself"})


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """An example with words substituted.

    Args:
        group: Group that the example is about after the substitution.
    """

    attribute: str
    group: str
    example: Example


@dataclass(frozen=True, slots=True)
class _Entry:
    """Position of a word in the lists."""

    group: str
    gender: str
    index: int


class Substituter:
    """Substitutes names, gendered words and nationalities as whole words, keeping their case.

    Names and nationalities must be capitalized, unless the text has no capitals at all.
    """

    def __init__(self, words: Words) -> None:
        """Create the substituter for lists of words."""
        self._words = words
        self._gender = _GenderSwap(words.gender, words.no_nouns)
        self._names = {
            name.lower(): _Entry(group, gender, index)
            for group, genders in words.names.items()
            for gender, names in genders.items()
            for index, name in enumerate(names)
        }
        self._nations: dict[str, _Entry] = {}
        for group, nations in words.nationalities.items():
            for index, nation in enumerate(nations):
                self._nations.setdefault(nation.lower(), _Entry(group, "", index))

    def counterfactuals(
        self, example: Example, attribute: str, fields: Collection[str] | None = None
    ) -> list[Counterfactual]:
        """Return the counterfactuals of an example for one attribute, one per group.

        Args:
            example: Example; its texts and lists of words or texts are changed, labels are not.
            fields: Fields to change; default all texts.
        """
        if fields is not None:
            some = {field: value for field, value in example.items() if field in fields}
            return [
                Counterfactual(each.attribute, each.group, {**example, **each.example})
                for each in self.counterfactuals(some, attribute)
            ]
        if attribute == PRONOUNS:
            return self._gender_counterfactuals(example)
        groups = self._words.names if attribute == NAMES else self._words.nationalities
        change = self._to_names if attribute == NAMES else self._to_nation
        found = []
        for group in groups:
            changed = _changed(example, partial(change, group))
            if changed is not None:
                found.append(Counterfactual(attribute, group, changed))
        return found

    def _gender_counterfactuals(self, example: Example) -> list[Counterfactual]:
        words = [token for tokens in _token_lists(example) for token in tokens]
        group = self._gender.group(words)
        changed = _changed(example, lambda tokens: self._swap_names(self._gender.swap(tokens)))
        if not group or changed is None:
            return []
        return [Counterfactual(PRONOUNS, group, changed)]

    def _to_names(self, group: str, tokens: Sequence[str]) -> list[str]:
        def new(entry: _Entry) -> str:
            return self._words.names[group][entry.gender][entry.index]

        return self._substitute(tokens, self._names, new)

    def _swap_names(self, tokens: Sequence[str]) -> list[str]:
        """Return the tokens with listed names of the other gender, so that pronouns agree."""

        def new(entry: _Entry) -> str:
            other = "female" if entry.gender == "male" else "male"
            return self._words.names[entry.group][other][entry.index]

        return self._substitute(tokens, self._names, new)

    def _to_nation(self, group: str, tokens: Sequence[str]) -> list[str]:
        def new(entry: _Entry) -> str:
            return "" if entry.group == group else self._words.nationalities[group][entry.index]

        return self._substitute(tokens, self._nations, new)

    def _substitute(
        self, tokens: Sequence[str], known: Mapping[str, _Entry], new: Callable[[_Entry], str]
    ) -> list[str]:
        lower = not any(token[:1].isupper() for token in tokens)
        result, changed = list(tokens), []
        for at, token in enumerate(tokens):
            entry = known.get(token.lower())
            if entry is None or _is_hyphenated(tokens, at) or not self._matches(token, lower=lower):
                continue
            word = new(entry)
            if word and word.lower() != token.lower():
                result[at] = _match_case(word, token)
                changed.append(at)
        return with_articles(result, changed)

    def _matches(self, token: str, *, lower: bool) -> bool:
        """Return whether a listed word is used in the listed sense, judged by its capital."""
        return token[0].isupper() or (lower and token not in self._words.ambiguous)


class _GenderSwap:
    """Swaps male and female words in one pass."""

    def __init__(self, pairs: Sequence[tuple[str, str]], no_nouns: Collection[str]) -> None:
        """Create the swap.

        Args:
            pairs: Nouns and titles, male and female, in lower case.
            no_nouns: Words that cannot follow a possessive ``his`` or ``her``.
        """
        self._no_nouns = no_nouns
        self._nouns: Mapping[str, str] = {
            # "mrs" and "ms" both map to "mr", which maps back to "mrs"
            "ms": "mr",
            **{female: male for male, female in pairs},
            **{male: female for male, female in pairs},
        }
        self._male = _MALE | {male for male, _ in pairs}
        self._female = _FEMALE | {"ms"} | {female for _, female in pairs}

    def swap(self, tokens: Sequence[str]) -> list[str]:
        """Return the tokens with every gendered word swapped."""
        return [self._swapped(tokens, at) for at in range(len(tokens))]

    def group(self, tokens: Sequence[str]) -> str:
        """Return the group after the swap: ``female``, ``male``, ``both``, or empty for none."""
        words = {token.lower() for token in tokens}
        male, female = bool(words & self._male), bool(words & self._female)
        if male and female:
            return "both"
        return ("female" if male else "male") if male or female else ""

    def _swapped(self, tokens: Sequence[str], at: int) -> str:
        word = tokens[at].lower()
        if word == "his":
            new = "her" if self._is_possessive(tokens, at) else "hers"
        elif word == "her":
            new = "his" if self._is_possessive(tokens, at) else "him"
        else:
            new = _PRONOUN_FORMS.get(word) or self._nouns.get(word, "")
        return _match_case(new, tokens[at]) if new else tokens[at]

    def _is_possessive(self, tokens: Sequence[str], at: int) -> bool:
        """Return whether a noun seems to follow, judged by the next word alone.

        ``saw her leave`` is therefore treated like ``saw her house``.
        """
        word = _next_word(tokens, at)
        return bool(word) and word.lower() not in self._no_nouns


def tokenize(text: str) -> list[str]:
    """Split a text into words, spaces and signs, which joined give the text again."""
    return _TOKEN.findall(text)


def with_articles(tokens: Sequence[str], changed: Sequence[int]) -> list[str]:
    """Return the tokens with the correct ``a`` or ``an`` before each changed word."""
    result = list(tokens)
    for place in changed:
        before = place - 1
        while before >= 0 and result[before].isspace():
            before -= 1
        if before >= 0 and result[before].lower() in ("a", "an"):
            article = "an" if _starts_with_vowel(result[place]) else "a"
            result[before] = article.capitalize() if result[before][0].isupper() else article
    return result


def _match_case(new: str, old: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new.lower() if old.islower() else f"{new[0].upper()}{new[1:]}"


def _next_word(tokens: Sequence[str], at: int) -> str:
    """Return the word after a position; empty before a sign or the end."""
    for token in tokens[at + 1 :]:
        if not token.isspace():
            return token if token[0].isalnum() else ""
    return ""


def _is_hyphenated(tokens: Sequence[str], at: int) -> bool:
    """Return whether a word is a part of a compound such as ``Anglo-American``."""
    before = tokens[at - 1] if at else ""
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    return "-" in (before, after)


def _starts_with_vowel(word: str) -> bool:
    lower = word.lower()
    return lower[0] in "aeiou" and not lower.startswith(_CONSONANT_SOUND)


def _changed(
    example: Example, change: Callable[[Sequence[str]], list[str]]
) -> dict[str, Any] | None:
    """Return the example with its texts changed; ``None`` if nothing changes."""

    def changed_text(text: str) -> str:
        return "".join(change(tokenize(text)))

    result = dict(example)
    for field, value in _text_fields(example):
        if isinstance(value, str):
            result[field] = changed_text(value)
        else:
            result[field] = change(value) if field == _WORDS else list(map(changed_text, value))
    return result if result != dict(example) else None


def _token_lists(example: Example) -> Iterator[Sequence[str]]:
    for field, value in _text_fields(example):
        if isinstance(value, str):
            yield tokenize(value)
        elif field == _WORDS:
            yield value
        else:
            yield from map(tokenize, value)


def _text_fields(example: Example) -> Iterator[tuple[str, Any]]:
    """Yield the fields that hold a text, or a list of words or texts."""
    for field, value in example.items():
        texts = isinstance(value, list) and all(isinstance(each, str) and each for each in value)
        if field not in _NO_TEXT and (isinstance(value, str) or texts):
            yield field, value
