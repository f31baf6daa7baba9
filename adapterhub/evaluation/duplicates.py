"""What the rows are like: lengths, repeats, contradictions, and what leaks between splits."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from adapterhub.data.fields import ANSWER_FIELDS
from adapterhub.data.pictures import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.data.source import Rows

#: Cosine over pieces of words above which two texts count as the same one, slightly changed.
NEAR = 0.9
#: Rows of a split, and of training, that are looked at for such texts.
NEAR_ROWS, NEAR_TRAIN_ROWS = 1000, 20000
_CHUNK = 250
_FEATURES = 2**18
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What a split is like.

    Args:
        name: of the split.
        rows: number of rows.
        median_words: words of a text, half of the texts have fewer.
        longest_words: words of the longest text.
        repeated: rows whose text an earlier row has, but for case and punctuation.
        contradicting: texts that come with more than one answer.
        labels: label to its number of rows, or of words with it; empty without labels.
    """

    name: str
    rows: int
    median_words: float
    longest_words: int
    repeated: int
    contradicting: int
    labels: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts of two splits that are nearly one.

    Args:
        text: of the other split.
        training: of the training split.
        similarity: cosine over their pieces of words.
    """

    text: str
    training: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Leak:
    """What of a split is in the training rows too.

    Args:
        split: its name.
        same: rows whose text is in training, but for case and punctuation.
        near: rows whose text is nearly one of training, and not the same.
        looked_at: rows that were looked at for ``near``.
        pairs: the most similar ones that are not the same.
    """

    split: str
    same: int
    near: int
    looked_at: int
    pairs: tuple[Pair, ...]


def text_of(row: Mapping[str, Any]) -> str:
    """Return what of a row is not its answer, as one text."""
    return " | ".join(_plain(value) for key, value in row.items() if key not in ANSWER_FIELDS)


def answer_of(row: Mapping[str, Any]) -> str:
    """Return a row's answer as text; empty where it has none of its own."""
    return " | ".join(_plain(row[key]) for key in ANSWER_FIELDS if row.get(key) is not None)


def split_facts(name: str, rows: Rows) -> SplitFacts:
    """Return what a split is like."""
    texts = [text_of(row) for row in rows.rows]
    answers: dict[str, set[str]] = defaultdict(set)
    for text, row in zip(map(_normal, texts), rows.rows, strict=True):
        answers[text].add(answer_of(row))
    words = [len(text.split()) for text in texts]
    return SplitFacts(
        name=name,
        rows=len(rows),
        median_words=float(np.median(words)) if words else 0.0,
        longest_words=max(words, default=0),
        repeated=len(rows) - len(answers),
        contradicting=sum(len(found) > 1 for found in answers.values()),
        labels=dict(sorted(Counter(_labels(rows.rows)).items())),
    )


def leak(name: str, rows: Rows, training: Rows, *, shown: int = 5) -> Leak:
    """Return what of a split is in the training rows too.

    Args:
        name: of the split.
        rows: of the split.
        training: rows that were learned from.
        shown: most pairs that are returned.
    """
    known = [text_of(row) for row in training.rows]
    normal = set(map(_normal, known))
    texts = [text_of(row) for row in rows.rows]
    same = [_normal(text) in normal for text in texts]
    others = [text for text, found in zip(texts, same, strict=True) if not found]
    looked_at, candidates = _spread(others, NEAR_ROWS), _spread(known, NEAR_TRAIN_ROWS)
    pairs = sorted(_near(looked_at, candidates), key=lambda pair: -pair.similarity)
    return Leak(name, sum(same), len(pairs), len(looked_at), tuple(pairs[:shown]))


def _near(texts: Sequence[str], training: Sequence[str]) -> Iterator[Pair]:
    """Yield each text with the training text most like it, if that is near enough."""
    if not texts or not training:
        return
    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=(4, 4), n_features=_FEATURES, alternate_sign=False
    )
    known = vectorizer.transform(training).T.tocsc()
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        products = (vectorizer.transform(part) @ known).tocsr()
        for index, text in enumerate(part):
            row = products.getrow(index)
            if row.nnz and row.data.max() >= NEAR:
                best = int(row.indices[row.data.argmax()])
                yield Pair(text, training[best], float(row.data.max()))


def _spread(texts: Sequence[str], most: int) -> list[str]:
    """Return at most so many texts, evenly from all over."""
    if len(texts) <= most:
        return list(texts)
    return [texts[int(place)] for place in np.linspace(0, len(texts) - 1, most)]


def _labels(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row.get("label") is not None:
            yield str(row["label"])
        elif row.get("tags") is not None:
            yield from map(str, row["tags"])


def _normal(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Picture):
        # the same file is the same picture, whatever its name
        return value.digest()
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        # answers as SQuAD has them, but for their places
        value = value["text"]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        # the turns of a conversation
        return " ".join(str(each.get("content", "")) for each in value)
    return json.dumps(value, ensure_ascii=False, default=str)
