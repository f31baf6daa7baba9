"""Data quality: lengths, duplicates, contradictions, and leaks between splits."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from adapterhub.data.field_mapping import answer_text, example_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from adapterhub.data.dataset import Dataset

#: Cosine similarity of character n-grams above which two texts are near duplicates.
NEAR = 0.9
#: Examples of a split, and of training, that are compared for near duplicates.
NEAR_EXAMPLES, NEAR_TRAIN_EXAMPLES = 1000, 20000
#: Characters of a text that are compared for near duplicates.
NEAR_CHARACTERS = 20_000
_CHUNK = 250
_FEATURES = 2**18
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Summary of a split.

    Args:
        name: Name of the split.
        examples: Number of examples.
        median_words: Median number of words per text.
        longest_words: Number of words of the longest text.
        repeated: Number of examples with the text of an earlier one, ignoring case and
            punctuation.
        contradicting: Number of texts with more than one answer.
        labels: Frequency of each label over examples or words; empty without labels.
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
    """Near duplicate texts of two splits, with the cosine similarity of their character n-grams."""

    text: str
    training: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Leak:
    """Examples of a split that are in the training data too.

    Args:
        split: Name of the split.
        same: Number of examples whose text is in the training data, ignoring case and
            punctuation.
        near: Number of near duplicates among the others.
        looked_at: Number of examples compared for near duplicates.
        pairs: Most similar near duplicates.
    """

    split: str
    same: int
    near: int
    looked_at: int
    pairs: tuple[Pair, ...]


def split_facts(name: str, dataset: Dataset) -> SplitFacts:
    """Return the summary of a split."""
    # examples may be too many for memory: numbers stand for texts
    keys, answers, words = array("Q"), array("Q"), array("q")
    for example in dataset.examples:
        text = example_text(example)
        keys.append(_key(_normal(text)))
        answers.append(_key(answer_text(example)))
        words.append(len(text.split()))
    pairs = np.unique(np.stack([np.array(keys), np.array(answers)], axis=1), axis=0)
    texts, num_answers = np.unique(pairs[:, 0], return_counts=True)
    return SplitFacts(
        name=name,
        examples=len(dataset),
        median_words=float(np.median(words)) if words else 0.0,
        longest_words=max(words, default=0),
        repeated=len(dataset) - len(texts),
        contradicting=int((num_answers > 1).sum()),
        labels=dict(sorted(Counter(_labels(dataset.examples)).items())),
    )


def leak(name: str, dataset: Dataset, training: Dataset, *, shown: int = 5) -> Leak:
    """Return which examples of a split are in the training data too."""
    same = np.isin(_keys(dataset), _keys(training))
    looked_at = _texts_at(dataset, np.flatnonzero(~same), NEAR_EXAMPLES)
    candidates = _texts_at(training, np.arange(len(training)), NEAR_TRAIN_EXAMPLES)
    pairs = sorted(_near(looked_at, candidates), key=lambda pair: -pair.similarity)
    return Leak(name, int(same.sum()), len(pairs), len(looked_at), tuple(pairs[:shown]))


def _key(text: str) -> int:
    """Return 64 bits of a digest; two of a million texts share them once in 40 million times."""
    return int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _keys(dataset: Dataset) -> NDArray[np.uint64]:
    """Return a number for the text of each example, ignoring case and punctuation."""
    return np.array(
        array("Q", (_key(_normal(example_text(example))) for example in dataset.examples)),
        dtype=np.uint64,
    )


def _near(texts: Sequence[str], training: Sequence[str]) -> Iterator[Pair]:
    """Yield each text with the most similar training text, if it is a near duplicate."""
    if not texts or not training:
        return
    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=(4, 4), n_features=_FEATURES, alternate_sign=False
    )
    known = vectorizer.transform(each[:NEAR_CHARACTERS] for each in training).T.tocsc()
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        cut = [text[:NEAR_CHARACTERS] for text in part]
        products = (vectorizer.transform(cut) @ known).tocsr()
        for index, text in enumerate(part):
            similarities = products.getrow(index)
            if similarities.nnz and similarities.data.max() >= NEAR:
                best = int(similarities.indices[similarities.data.argmax()])
                yield Pair(text, training[best], float(similarities.data.max()))


def _texts_at(dataset: Dataset, indices: NDArray[np.int64], most: int) -> list[str]:
    """Return at most so many texts of the examples at ``indices``, evenly spaced."""
    if len(indices) > most:
        indices = indices[np.linspace(0, len(indices) - 1, most).astype(np.int64)]
    return [example_text(dataset.examples[int(index)]) for index in indices]


def _labels(examples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for example in examples:
        if example.get("label") is not None:
            yield str(example["label"])
        elif example.get("tags") is not None:
            yield from map(str, example["tags"])


def _normal(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()
