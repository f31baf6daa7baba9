"""What the examples are like: lengths, repeats, contradictions, and what leaks between splits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from adapterhub.data.field_mapping import answer_text, example_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.data.dataset import Dataset

#: Cosine over pieces of words above which two texts count as the same one, slightly changed.
NEAR = 0.9
#: Examples of a split, and of training, that are looked at for such texts.
NEAR_ROWS, NEAR_TRAIN_ROWS = 1000, 20000
_CHUNK = 250
_FEATURES = 2**18
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What a split is like.

    Args:
        name: of the split.
        examples: number of examples.
        median_words: words of a text, half of the texts have fewer.
        longest_words: words of the longest text.
        repeated: examples whose text an earlier example has, but for case and punctuation.
        contradicting: texts that come with more than one answer.
        labels: label to its number of examples, or of words with it; empty without labels.
    """

    name: str
    examples: int
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
    """What of a split is in the training examples too.

    Args:
        split: its name.
        same: examples whose text is in training, but for case and punctuation.
        near: examples whose text is nearly one of training, and not the same.
        looked_at: examples that were looked at for ``near``.
        pairs: the most similar ones that are not the same.
    """

    split: str
    same: int
    near: int
    looked_at: int
    pairs: tuple[Pair, ...]


def split_facts(name: str, examples: Dataset) -> SplitFacts:
    """Return what a split is like."""
    texts = [example_text(example) for example in examples.examples]
    answers: dict[str, set[str]] = defaultdict(set)
    for text, example in zip(map(_normal, texts), examples.examples, strict=True):
        answers[text].add(answer_text(example))
    words = [len(text.split()) for text in texts]
    return SplitFacts(
        name=name,
        examples=len(examples),
        median_words=float(np.median(words)) if words else 0.0,
        longest_words=max(words, default=0),
        repeated=len(examples) - len(answers),
        contradicting=sum(len(found) > 1 for found in answers.values()),
        labels=dict(sorted(Counter(_labels(examples.examples)).items())),
    )


def leak(name: str, examples: Dataset, training: Dataset, *, shown: int = 5) -> Leak:
    """Return what of a split is in the training examples too.

    Args:
        name: of the split.
        examples: of the split.
        training: examples that were learned from.
        shown: most pairs that are returned.
    """
    known = [example_text(example) for example in training.examples]
    normal = set(map(_normal, known))
    texts = [example_text(example) for example in examples.examples]
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
            example = products.getrow(index)
            if example.nnz and example.data.max() >= NEAR:
                best = int(example.indices[example.data.argmax()])
                yield Pair(text, training[best], float(example.data.max()))


def _spread(texts: Sequence[str], most: int) -> list[str]:
    """Return at most so many texts, evenly from all over."""
    if len(texts) <= most:
        return list(texts)
    return [texts[int(place)] for place in np.linspace(0, len(texts) - 1, most)]


def _labels(examples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for example in examples:
        if example.get("label") is not None:
            yield str(example["label"])
        elif example.get("tags") is not None:
            yield from map(str, example["tags"])


def _normal(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()
