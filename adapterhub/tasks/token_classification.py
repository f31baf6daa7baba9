"""Token classification: a BIO tag for each word, and the spans that the tags mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.tasks.alignment import align, token_owners, untouched
from adapterhub.tasks.attribution import (
    AttributionInput,
    CheckedAnswer,
    InputText,
    Target,
    padded_owners,
    split_unspaced,
    tags_log_odds,
)
from adapterhub.tasks.base import AuditSpec, Evaluation, Outcome, join_predictions
from adapterhub.tasks.bio import OUTSIDE, check_tags, repair, spans
from adapterhub.tasks.classification import ClassLabels, require_any
from adapterhub.tasks.entity_scores import entity_scores, span_metrics
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field
from adapterhub.tasks.predictions import Confidence, ErrorExample, ExampleStatistics, LabelChoices
from adapterhub.tasks.preprocessors import check_tokenizer
from adapterhub.tasks.words import Word, split_into_windows, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.alignment import AlignedWords
    from adapterhub.tasks.base import Head, HeadKind, Pool, TaskOptions
    from adapterhub.tasks.fields import Example


@dataclass(frozen=True, slots=True)
class WordTags:
    """Raw prediction for one example: a tag for each word that was not truncated.

    Args:
        labels: Index of the likeliest label of each word.
        scores: Its probability.
        probabilities: Probability of every label, ``[words, labels]`` float32 on the CPU.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]
    probabilities: Tensor | None = field(default=None, compare=False)


class TokenClassification:
    """Examples have ``tokens``, a list of words, and ``tags``, a BIO tag for each word.

    The head is read once per word: at its first token for an encoder, at its last token for
    a decoder, which has attended to the whole word only then. A decoder sees nothing to the
    right of a word, so its tags are worse wherever the right context decides.

    Tags are repaired (see ``bio.repair``) both in the data and in predictions. An example longer
    than ``max_length`` is read in ``windows``; a word that is longer alone counts as ``O``.

    For prediction an example may have ``text`` instead of ``tokens``, which is split as the
    tokens of the training examples were; see ``split_words``.
    """

    name: str = "token-classification"
    pipeline_tag: str = "token-classification"
    peft_task_type: str = "TOKEN_CLS"
    head: HeadKind = "token"
    reads_windows: bool = True
    default_metric: tuple[str, bool] = ("entity_f1", True)
    audit: AuditSpec | None = AuditSpec("labels", "another tag for any word")
    generation: None = None
    transcription: None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Pool,
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task; ``pool`` is the token of a word that the head reads."""
        check_tokenizer(tokenizer, options.max_length)
        check_tags(labels)
        self.tokenizer = tokenizer
        self.options = options
        self.classes = ClassLabels(labels, options, label_counts, field="tags")
        self.labels = self.classes.names
        self._pool = pool
        # of an adapter whose training data nobody knows
        self.segmentation = options.segmentation or "unspaced"
        #: between the words of a text that is shown
        self._space = "" if options.segmentation in ("unspaced", "characters") else " "

    @property
    def attribution(self) -> SpanAttribution:
        """Attribution of spans to the words of the text."""
        return SpanAttribution(self)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode an example; see ``Task.encode``."""
        aligned = self.aligned(words_of(example, number, self.segmentation))
        targets: list[int] = []
        if train or is_given(example, "tags"):
            targets = self._gold(example, number)[: len(aligned.positions)]
        if train and not targets:
            return None
        return EncodedExample(
            number=number, input_ids=aligned.input_ids, select=aligned.positions, targets=targets
        )

    def aligned(self, words: Sequence[Word]) -> AlignedWords:
        """Return words as tokens, truncated to ``max_length``."""
        texts = [word.text for word in words]
        return align(self.tokenizer, texts, self._pool, self.options.max_length)

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over words, a scalar."""
        return self.classes.loss(head, hidden, batch)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of words, or the summed weight of their classes."""
        return self.classes.weight(batch)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[WordTags]:
        """Return the likeliest label of each word, per example."""
        parts = self.classes.probabilities(head, hidden).split(batch.selected)
        return [_word_tags(probabilities) for probabilities in parts]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score spans with seqeval in its default mode, as conlleval, and words.

        Metrics: ``entity_precision``, ``entity_recall`` and ``entity_f1`` over spans whose type
        and borders are both correct (0 where undefined); ``token_accuracy``, the share of words
        with the correct tag; ``truncated_words``, the number of words beyond ``max_length``,
        which count as ``O``. The table has a record per type.
        """
        require_any(examples)
        pairs = self._named_pairs(examples, decoded)
        expected, found = [gold for gold, _ in pairs], [named for _, named in pairs]
        words = sum(map(len, expected))
        read = sum(len(tags.labels) for tags in decoded)
        right = sum(a == b for gold, named in pairs for a, b in zip(gold, named, strict=True))
        scores, table = entity_scores(expected, found)
        return Evaluation(
            metrics={
                **scores,
                "token_accuracy": right / words,
                "truncated_words": float(words - read),
            },
            table=table,
        )

    def named_tags(
        self, example: Example, number: int, decoded: WordTags
    ) -> tuple[list[str], list[str]]:
        """Return expected and predicted tags of an example's words; ``O`` where truncated."""
        gold = self._gold_names(example, number)
        return gold, self._names(decoded, len(gold))

    def windows(self, example: Example) -> list[Example]:
        """Split an example at word borders into windows that fit ``max_length``.

        Windows end after a sentence where one ends in their second half. Offsets still count in
        the whole text.
        """
        return split_into_windows(example, self._fitting, self.segmentation)

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the spans of all windows."""
        return join_predictions(answers)

    def prediction(self, example: Example, decoded: WordTags) -> dict[str, Any]:
        """Return the spans, ``{"spans": [{"label", "start", "end", "text", "score"}]}``.

        Offsets count the characters of the example's ``text``, or of its ``tokens`` joined by
        spaces; the score is the mean probability of the tags of a span's words.
        """
        words = words_of(example, 1, self.segmentation)
        text = text_field(example, "text", 1) if is_given(example, "text") else None
        found = spans(self._names(decoded, len(words)))
        # truncated words have no scores, and no spans
        return {
            "spans": [
                _span(kind, words[first:last], decoded.scores[first:last], text)
                for kind, first, last in found
            ]
        }

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return the spans with their types and offsets."""
        found = (f"{s['label']}[{s['start']}:{s['end']}] {s['text']}" for s in prediction["spans"])
        return "; ".join(found) or "(none)"

    def outcome(self, decoded: WordTags) -> Outcome:
        """Return the tag of each word."""
        return Outcome(decoded.labels)

    def confidence(
        self, examples: Sequence[Example], decoded: Sequence[WordTags]
    ) -> Confidence | None:
        """Return the confidence of each remaining word's tag, before its repair."""
        tables = [each.probabilities for each in decoded if each.probabilities is not None]
        if len(tables) < len(decoded):
            return None
        pairs = enumerate(zip(examples, decoded, strict=True), start=1)
        gold = [
            tag
            for number, (example, tags) in pairs
            for tag in self._gold(example, number)[: len(tags.labels)]
        ]
        if not gold:
            return None
        return Confidence.of_choices("words", torch.cat(tables).double().numpy(), np.array(gold))

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[WordTags]
    ) -> list[ErrorExample]:
        """Return the examples with missed or spurious spans."""
        found = []
        for example, pair in zip(examples, self._named_pairs(examples, decoded), strict=True):
            words = [str(word) for word in example["tokens"]]
            gold, predicted = (set(spans(tags)) for tags in pair)
            if wrong := gold ^ predicted:
                missed, spurious = (
                    _listed(gold - predicted, words, self._space),
                    _listed(predicted - gold, words, self._space),
                )
                measure, text = "missed and spurious spans", self._space.join(words)
                found.append(ErrorExample(text, missed, spurious, float(len(wrong)), measure))
        return found

    def label_choices(
        self, examples: Sequence[Example], decoded: Sequence[WordTags]
    ) -> LabelChoices:
        """Return expected and predicted span type of each word that was not truncated."""
        index = self._type_index()
        sides: tuple[list[int], list[int]] = ([], [])
        for pair, tags in zip(self._named_pairs(examples, decoded), decoded, strict=True):
            for side, names in zip(sides, pair, strict=True):
                side += [index[tag[2:] or OUTSIDE] for tag in names[: len(tags.labels)]]
        gold, predicted = map(np.array, sides)
        return LabelChoices("words", tuple(index), gold, predicted)

    def statistics(
        self, examples: Sequence[Example], decoded: Sequence[WordTags]
    ) -> ExampleStatistics:
        """Return the number of spans and of correct words of each example."""
        values = []
        for gold, found in self._named_pairs(examples, decoded):
            expected, predicted = set(spans(gold)), set(spans(found))
            right = sum(a == b for a, b in zip(gold, found, strict=True))
            hits = len(expected & predicted)
            values.append([hits, len(predicted), len(expected), right, len(gold)])
        return ExampleStatistics(np.array(values, dtype=float), span_metrics, ("spans",))

    def _named_pairs(
        self, examples: Sequence[Example], decoded: Sequence[WordTags]
    ) -> list[tuple[list[str], list[str]]]:
        pairs = enumerate(zip(examples, decoded, strict=True), start=1)
        return [self.named_tags(example, number, tags) for number, (example, tags) in pairs]

    def _fitting(self, words: Sequence[str]) -> int:
        """Return how many of the words fit into one window."""
        # a word has at least one token, so the rest can't fit
        some = words[: self.options.max_length]
        return len(align(self.tokenizer, some, self._pool, self.options.max_length).positions)

    def _gold(self, example: Example, number: int) -> list[int]:
        index = self.classes.index
        return [index.index(name, number, "tags") for name in self._gold_names(example, number)]

    def _gold_names(self, example: Example, number: int) -> list[str]:
        required(example, "tags", number)
        tags = list_field(example, "tags", number)
        words = len(words_of(example, number, self.segmentation))
        if len(tags) != words:
            raise DataError(f"{len(tags)} tags for {words} words", place=place_of(number, "tags"))
        return repair([self.classes.index.name(tag, number, "tags") for tag in tags])

    def _names(self, tags: WordTags, words: int) -> list[str]:
        """Return repaired tag names for all words of an example."""
        names = [self.labels[label] for label in tags.labels]
        return repair(names + [OUTSIDE] * (words - len(names)))

    def _type_index(self) -> dict[str, int]:
        """Return the index of each span type, after that of words outside of spans."""
        types = sorted({tag[2:] for tag in self.labels if tag != OUTSIDE})
        return {name: place for place, name in enumerate((OUTSIDE, *types))}


@dataclass(frozen=True, slots=True)
class SpanAttribution:
    """Attribution of spans to the words of a text; see ``AttributionSource``."""

    task: TokenClassification

    def windows(self, example: Example) -> Sequence[Example]:
        """Return the windows that the text is split into."""
        return self.task.windows(example)

    def encode(self, window: Example) -> AttributionInput:
        """Encode a window; see ``AttributionSource``."""
        words = words_of(window, 1, self.task.segmentation)
        encoded = self.task.encode({**window, "tags": None}, 1, train=False)
        if encoded is None:
            raise DataError("the example has no tokens", place=self.task.name)
        joined = " ".join(word.text for word in words)
        text = text_field(window, "text", 1) if is_given(window, "text") else joined
        aligned = self.task.aligned(words)
        parts = [self._parts(*each) for each in zip(words, aligned.placed, strict=True)]
        placed = [part for _, those in parts for part in those]
        read = InputText("text", text, [part for these, _ in parts for part in these])
        owners = padded_owners(token_owners(aligned.offsets, placed), encoded)
        return AttributionInput(encoded, [read], owners, untouched(aligned.offsets, placed))

    def targets(
        self,
        windows: Sequence[Example],
        decoded: Sequence[WordTags],
        *,
        label: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> list[tuple[int, Target]]:
        """Return the predicted spans; see ``AttributionSource``."""
        found = [
            (place, each)
            for place, (window, tags) in enumerate(zip(windows, decoded, strict=True))
            for each in self.task.prediction(window, tags)["spans"]
        ]
        wanted = [
            (place, self._target(windows[place], decoded[place], each))
            for place, each in found
            if label in (None, each["label"])
            and (span is None or (each["start"] < span[1] and each["end"] > span[0]))
        ]
        if not wanted:
            listed = "; ".join(
                f"{each['label']} {each['start']}:{each['end']}" for _, each in found
            )
            raise DataError(
                "no such span was found" if found else "no span was found",
                place=self.task.name,
                hint=f"Found: {listed}" if found else "There is nothing to explain",
            )
        return wanted

    def answers(self, place: int, example: Example, decoded: WordTags) -> Iterator[CheckedAnswer]:
        """Yield each predicted span; see ``AttributionSource``."""
        gold, _ = self.task.named_tags(example, 1, decoded)
        words = words_of(example, 1, self.task.segmentation)
        expected = {(words[a].start, words[b - 1].end): kind for kind, a, b in spans(gold)}
        for each in self.task.prediction(example, decoded)["spans"]:
            at = each["start"], each["end"]
            kind = expected.get(at)
            right = kind == each["label"]
            yield CheckedAnswer(place, kind or "no span", right, each["score"], each["label"], at)

    def _parts(self, word: Word, placed: Word) -> tuple[list[Word], list[Word]]:
        """Return the parts of a word with offsets in the text, and in the joined words."""
        if placed.text != word.text:
            # the replacement of a word without tokens
            return [word], [placed]
        shift = placed.start - word.start
        found = split_unspaced(self.task.tokenizer, word)
        return found, [Word(each.text, each.start + shift, each.end + shift) for each in found]

    def _target(self, window: Example, tags: WordTags, span: Mapping[str, Any]) -> Target:
        segmentation = self.task.segmentation
        words = [
            at
            for at, word in enumerate(words_of(window, 1, segmentation)[: len(tags.labels)])
            if word.start >= span["start"] and word.end <= span["end"]
        ]
        return Target(
            answer=f"{span['label']}: {span['text']}",
            quantity="mean log-odds of the span's tags",
            probability=span["score"],
            measure=partial(tags_log_odds, words=words, tags=[tags.labels[at] for at in words]),
            start=span["start"],
            end=span["end"],
        )


def _word_tags(probabilities: Tensor) -> WordTags:
    """Return the likeliest labels, given probabilities ``[words, labels]``."""
    scores, labels = probabilities.max(dim=-1)
    return WordTags(tuple(labels.tolist()), tuple(scores.tolist()), probabilities)


def _span(
    kind: str, words: Sequence[Word], scores: Sequence[float], text: str | None
) -> dict[str, Any]:
    start, end = words[0].start, words[-1].end
    inside = " ".join(word.text for word in words) if text is None else text[start:end]
    return {
        "label": kind,
        "start": start,
        "end": end,
        "text": inside,
        "score": sum(scores) / len(scores),
    }


def _listed(found: set[tuple[str, int, int]], words: Sequence[str], space: str) -> str:
    ordered = sorted(found, key=lambda span: span[1:])
    return "; ".join(f"{space.join(words[a:b])} [{kind}]" for kind, a, b in ordered) or "(none)"
