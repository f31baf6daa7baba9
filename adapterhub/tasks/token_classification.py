"""Token classification: a BIO tag for each word, and the spans that the tags mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.tasks.alignment import align
from adapterhub.tasks.base import Evaluation, join_predictions
from adapterhub.tasks.bio import OUTSIDE, check_tags, repair, spans
from adapterhub.tasks.class_loss import ClassLoss
from adapterhub.tasks.fields import is_given, list_field, place_of, required, text_field
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.limits import check_temperature, check_tokenizer
from adapterhub.tasks.word_windows import split_into_windows, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.alignment import Read
    from adapterhub.tasks.base import Example, Head, HeadKind, TaskOptions
    from adapterhub.tasks.words import Word


@dataclass(frozen=True, slots=True)
class WordTags:
    """What the head said of one example, for the words before the cut.

    Args:
        labels: index of the likeliest label of each word.
        scores: its probability.
        # [words, labels]
        probabilities: of every label, float32 on the CPU.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]
    probabilities: Tensor | None = field(default=None, compare=False)


class TokenClassification:
    """Examples have ``tokens``, a list of words, and ``tags``, a BIO tag for each word.

    The head is read once a word: at its first token for an encoder, at its last token for
    a decoder, which has seen the whole word only then. A decoder sees nothing to the right
    of a word, so its tags are worse wherever the right context decides.

    Tags are repaired (see ``bio.repair``) both in the data and in predictions. Words beyond
    ``max_length`` are not learned from; in scoring and prediction they count as ``O``,
    unless the example is cut into ``windows`` first.

    For prediction an example may have ``text`` instead of ``tokens``, split by ``split_words``.
    """

    name: str = "token-classification"
    pipeline_tag: str = "token-classification"
    peft_task_type: str = "TOKEN_CLS"
    head: HeadKind = "token"
    reads_windows: bool = False
    default_metric: tuple[str, bool] = ("entity_f1", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        read: Read,
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task.

        Args:
            tokenizer: a fast one.
            labels: BIO tags in the order of the head's outputs.
            options: settings from the recipe.
            read: which token of a word the head reads.
            label_counts: how often each tag is in the training examples; needed for balanced
                class weights.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together.
        """
        check_tokenizer(tokenizer, options.max_length)
        check_temperature(options.temperature)
        check_tags(labels)
        self.tokenizer = tokenizer
        self.options = options
        self.read = read
        self.index = LabelIndex(labels)
        self.labels = self.index.names
        self.criterion = ClassLoss(self.labels, options, label_counts)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode one example; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        words = words_of(example, number)
        aligned = align(
            self.tokenizer, [word.text for word in words], self.read, self.options.max_length
        )
        targets: list[int] = []
        if train or is_given(example, "tags"):
            targets = self._gold(example, number)[: len(aligned.positions)]
        if train and not targets:
            return None
        return EncodedExample(
            number=number, input_ids=aligned.input_ids, select=aligned.positions, targets=targets
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over words, a scalar."""
        return self.criterion.total(head(hidden), batch.targets)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of words, or the summed weight of their classes."""
        return self.criterion.divisor(batch.targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[WordTags]:
        """Return the likeliest label of each word, an example at a time."""
        logits = head(hidden).float() / self.options.temperature
        examples = logits.softmax(dim=-1).cpu().split(batch.selected)
        return [_word_tags(chances) for chances in examples]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score spans by seqeval in its default mode, as conlleval does, and words.

        Metrics: ``entity_precision``, ``entity_recall`` and ``entity_f1`` over spans whose
        type and borders are both right (0 where nothing can be counted);
        ``token_accuracy``, the share of words with the right tag; ``truncated_words``, how
        many words were beyond the cut and count as ``O``. The table has a record per type.

        Raises:
            DataError: when there are no examples, or an example has no known tags.
        """
        if not examples:
            raise DataError("there are no examples to score")
        expected = [
            self._gold_names(example, number) for number, example in enumerate(examples, start=1)
        ]
        found = [self._names(tags, len(gold)) for tags, gold in zip(decoded, expected, strict=True)]
        cut = sum(
            len(gold) - len(tags.labels) for tags, gold in zip(decoded, expected, strict=True)
        )
        words = sum(map(len, expected))
        right = sum(
            a == b
            for gold, tags in zip(expected, found, strict=True)
            for a, b in zip(gold, tags, strict=True)
        )
        scores, table = _entity_scores(expected, found)
        return Evaluation(
            metrics={**scores, "token_accuracy": right / words, "truncated_words": float(cut)},
            table=table,
        )

    def named_tags(
        self, example: Example, number: int, decoded: WordTags
    ) -> tuple[list[str], list[str]]:
        """Return the right tags of an example's words, and those found; ``O`` beyond the cut.

        Raises:
            DataError: when the example has no known tags.
        """
        gold = self._gold_names(example, number)
        return gold, self._names(decoded, len(gold))

    def windows(self, example: Example) -> list[Example]:
        """Return the example cut at word borders into examples that fit ``max_length``.

        Cuts fall after the end of a sentence where there is one in the second half of a
        window. Offsets still count in the whole text.
        """
        return split_into_windows(example, self._fitting)

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the spans of all windows."""
        return join_predictions(answers)

    def prediction(self, example: Example, decoded: WordTags) -> dict[str, Any]:
        """Return the example's spans, ``{"spans": [{"label", "start", "end", "text", "score"}]}``.

        Offsets count the characters of the example's ``text``, or of its ``tokens`` joined by
        spaces; the score is the mean probability of the tags of a span's words.
        """
        words = words_of(example, 1)
        text = text_field(example, "text", 1) if is_given(example, "text") else None
        found = spans(self._names(decoded, len(words)))
        # an example that is cut has scores for the words before the cut, and no spans after it
        return {
            "spans": [
                _span(kind, words[first:last], decoded.scores[first:last], text)
                for kind, first, last in found
            ]
        }

    def _fitting(self, words: Sequence[str]) -> int:
        """Return how many of the words fit into one example."""
        # a word has a token at least, so the rest can't fit and need not be looked at
        some = words[: self.options.max_length]
        return len(align(self.tokenizer, some, self.read, self.options.max_length).positions)

    def _gold(self, example: Example, number: int) -> list[int]:
        names = self._gold_names(example, number)
        return [self.index.index(name, number, "tags") for name in names]

    def _gold_names(self, example: Example, number: int) -> list[str]:
        required(example, "tags", number)
        tags = list_field(example, "tags", number)
        words = len(words_of(example, number))
        if len(tags) != words:
            raise DataError(f"{len(tags)} tags for {words} words", place=place_of(number, "tags"))
        return repair([self.index.name(tag, number, "tags") for tag in tags])

    def _names(self, tags: WordTags, words: int) -> list[str]:
        """Return repaired tag names for all words of an example."""
        names = [self.labels[label] for label in tags.labels]
        return repair(names + [OUTSIDE] * (words - len(names)))


def _word_tags(chances: Tensor) -> WordTags:
    """Return the likeliest of the labels, ``[words, labels]``."""
    scores, labels = chances.max(dim=-1)
    return WordTags(tuple(labels.tolist()), tuple(scores.tolist()), chances)


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


def _entity_scores(
    expected: list[list[str]], found: list[list[str]]
) -> tuple[dict[str, float], list[dict[str, float | str]]]:
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    # seqeval returns the types in alphabetical order, without their names
    types = sorted({kind for kind, _, _ in [*get_entities(expected), *get_entities(found)]})
    micro = precision_recall_fscore_support(expected, found, average="micro", zero_division=0)
    columns = precision_recall_fscore_support(expected, found, average=None, zero_division=0)
    precision, recall, f1 = (float(value) for value in micro[:3])
    table: list[dict[str, float | str]] = [
        {
            "label": kind,
            "precision": float(each[0]),
            "recall": float(each[1]),
            "f1": float(each[2]),
            "support": float(each[3]),
        }
        for kind, *each in zip(types, *columns, strict=True)
    ]
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}, table
