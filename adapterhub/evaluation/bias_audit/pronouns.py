"""Pronouns and words of gender, exchanged in their right forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.evaluation.bias_audit.tokens import like, next_word

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

#: Forms that do not depend on what follows. ``his`` and ``her`` do.
_PLAIN = {
    "he": "she",
    "she": "he",
    "him": "her",
    "himself": "herself",
    "herself": "himself",
    "hers": "his",
}
_MALE = frozenset({"he", "him", "his", "himself"})
_FEMALE = frozenset({"she", "her", "hers", "herself"})


class Gender:
    """Exchanges male for female words and the other way round, in one pass."""

    def __init__(self, pairs: Sequence[tuple[str, str]], no_nouns: Collection[str]) -> None:
        """Set up the exchange.

        Args:
            pairs: nouns and titles, male and female, in lower case.
            no_nouns: words that begin nothing that could be hers or his.
        """
        self._no_nouns = no_nouns
        self._nouns: Mapping[str, str] = {
            # there are two titles for women; the way back takes the first
            "ms": "mr",
            **{female: male for male, female in pairs},
            **{male: female for male, female in pairs},
        }
        self._male = _MALE | {male for male, _ in pairs}
        self._female = _FEMALE | {"ms"} | {female for _, female in pairs}

    def exchange(self, tokens: Sequence[str]) -> list[str]:
        """Return the tokens with every word of gender exchanged."""
        return [self._exchanged(tokens, at) for at in range(len(tokens))]

    def group(self, tokens: Sequence[str]) -> str:
        """Return whom the exchange speaks of: ``female``, ``male``, ``both``; empty for none."""
        words = {token.lower() for token in tokens}
        male, female = bool(words & self._male), bool(words & self._female)
        if male and female:
            return "both"
        return ("female" if male else "male") if male or female else ""

    def _exchanged(self, tokens: Sequence[str], at: int) -> str:
        word = tokens[at].lower()
        if word == "his":
            new = "her" if self._noun_follows(tokens, at) else "hers"
        elif word == "her":
            new = "his" if self._noun_follows(tokens, at) else "him"
        else:
            new = _PLAIN.get(word) or self._nouns.get(word, "")
        return like(new, tokens[at]) if new else tokens[at]

    def _noun_follows(self, tokens: Sequence[str], at: int) -> bool:
        """Tell whether what follows looks like the thing that is hers or his.

        It goes by the next word alone, so ``saw her leave`` is taken for ``saw her house``.
        """
        word = next_word(tokens, at)
        return bool(word) and word.lower() not in self._no_nouns
