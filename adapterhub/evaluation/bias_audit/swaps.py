"""Counterfactuals of a row: the same text of someone else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.evaluation.bias_audit.pronouns import Gender
from adapterhub.evaluation.bias_audit.tokens import is_part, like, tokens_of, with_articles

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.templates import Words
    from adapterhub.tasks.fields import Example

NAMES, PRONOUNS, NATIONALITIES = "names", "pronouns", "nationalities"
#: What is exchanged.
KINDS = (NAMES, PRONOUNS, NATIONALITIES)
#: Fields of a row that are no text, or not the text of whom it speaks.
_NO_TEXT = frozenset({"label", "tags", "answers", "group", "others"})
#: Lists whose items are words; those of other lists are texts.
_WORDS = "tokens"


@dataclass(frozen=True, slots=True)
class Variant:
    """A row with words exchanged.

    Args:
        kind: one of ``KINDS``.
        group: whom it speaks of now.
        row: all else as it was.
    """

    kind: str
    group: str
    row: Example


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a word stands in the lists."""

    group: str
    gender: str
    index: int


class Swapper:
    """Exchanges names, words of gender, and nationalities; whole words, in their case.

    Names and nationalities must have their capital, unless a text has no capitals at all.
    """

    def __init__(self, words: Words) -> None:
        """Set up the exchange between ``words``."""
        self._words = words
        self._gender = Gender(words.gender, words.no_nouns)
        self._names = {
            name.lower(): _Place(group, gender, index)
            for group, genders in words.names.items()
            for gender, names in genders.items()
            for index, name in enumerate(names)
        }
        self._nations: dict[str, _Place] = {}
        for group, nations in words.nationalities.items():
            for index, nation in enumerate(nations):
                self._nations.setdefault(nation.lower(), _Place(group, "", index))

    def variants(
        self, row: Example, kind: str, fields: Collection[str] | None = None
    ) -> list[Variant]:
        """Return a row's counterfactuals of one kind, one for each group; none without words.

        Args:
            row: texts, and lists of words or of texts, are exchanged; labels and tags stay.
            kind: one of ``KINDS``.
            fields: in these alone; in all texts where not given.
        """
        if fields is not None:
            some = {field: value for field, value in row.items() if field in fields}
            return [
                Variant(each.kind, each.group, {**row, **each.row})
                for each in self.variants(some, kind)
            ]
        if kind == PRONOUNS:
            return self._of_gender(row)
        groups = self._words.names if kind == NAMES else self._words.nationalities
        change = self._to_names if kind == NAMES else self._to_nation
        found = []
        for group in groups:
            changed = _changed(row, partial(change, group))
            if changed is not None:
                found.append(Variant(kind, group, changed))
        return found

    def _of_gender(self, row: Example) -> list[Variant]:
        words = [token for tokens in _token_lists(row) for token in tokens]
        group = self._gender.group(words)
        changed = _changed(row, lambda tokens: self._other_names(self._gender.exchange(tokens)))
        return [Variant(PRONOUNS, group, changed)] if group and changed is not None else []

    def _to_names(self, group: str, tokens: Sequence[str]) -> list[str]:
        def new(place: _Place) -> str:
            return self._words.names[group][place.gender][place.index]

        return self._listed(tokens, self._names, new)

    def _other_names(self, tokens: Sequence[str]) -> list[str]:
        """Return the tokens with listed names of the other gender, so that names agree."""

        def new(place: _Place) -> str:
            other = "female" if place.gender == "male" else "male"
            return self._words.names[place.group][other][place.index]

        return self._listed(tokens, self._names, new)

    def _to_nation(self, group: str, tokens: Sequence[str]) -> list[str]:
        def new(place: _Place) -> str:
            if place.group == group:
                return ""
            return self._words.nationalities[group][place.index]

        return self._listed(tokens, self._nations, new)

    def _listed(
        self, tokens: Sequence[str], known: Mapping[str, _Place], new: Callable[[_Place], str]
    ) -> list[str]:
        lower = not any(token[:1].isupper() for token in tokens)
        result, changed = list(tokens), []
        for at, token in enumerate(tokens):
            place = known.get(token.lower())
            if place is None or is_part(tokens, at) or not self._means(token, lower=lower):
                continue
            word = new(place)
            if word and word.lower() != token.lower():
                result[at] = like(word, token)
                changed.append(at)
        return with_articles(result, changed)

    def _means(self, token: str, *, lower: bool) -> bool:
        """Tell whether a listed word is meant, by its capital."""
        return token[0].isupper() or (lower and token not in self._words.ambiguous)


def _changed(row: Example, change: Callable[[Sequence[str]], list[str]]) -> dict[str, Any] | None:
    """Return the row with its texts changed; ``None`` where nothing changes."""
    result = dict(row)
    for field, value in row.items():
        if field in _NO_TEXT:
            continue
        if isinstance(value, str):
            result[field] = _changed_text(value, change)
        elif _is_texts(value):
            words = field == _WORDS
            result[field] = (
                change(value) if words else [_changed_text(each, change) for each in value]
            )
    return result if result != dict(row) else None


def _changed_text(text: str, change: Callable[[Sequence[str]], list[str]]) -> str:
    return "".join(change(tokens_of(text)))


def _token_lists(row: Example) -> Iterator[Sequence[str]]:
    for field, value in row.items():
        if field in _NO_TEXT:
            continue
        if isinstance(value, str):
            yield tokens_of(value)
        elif _is_texts(value) and field == _WORDS:
            yield value
        elif _is_texts(value):
            yield from map(tokens_of, value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)
