"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError, did_you_mean
from adapterhub.tasks.alignment import token_owners, untouched
from adapterhub.tasks.attribution import (
    AttributionInput,
    CheckedAnswer,
    Target,
    independent_label_log_odds,
    input_text,
    label_log_odds,
    padded_owners,
    refuse_selection,
)
from adapterhub.tasks.base import AuditSpec
from adapterhub.tasks.classification import SingleLabelTask, predicted_labels
from adapterhub.tasks.fields import is_given, place_of, text_field
from adapterhub.tasks.label_statistics import label_statistics
from adapterhub.tasks.preprocessors import check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from adapterhub.tasks.attribution import InputDivider
    from adapterhub.tasks.base import Evaluation, HeadKind, Outcome, Pool, TaskOptions
    from adapterhub.tasks.classification import ClassLabels
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Scores


class TextEncoder:
    """Encodes ``text`` and an optional ``text_pair`` for a head that is read once.

    The head is read at the first token of an encoder (its class token) and at the last token of
    a decoder, the only one that attends to the whole text. Texts longer than ``max_length`` are
    truncated at the end; special tokens stay.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TaskOptions,
        pool: Pool,
    ) -> None:
        """Check the tokenizer."""
        check_tokenizer(tokenizer, options.max_length)
        self.tokenizer = tokenizer
        self._max_length = options.max_length
        self._pool = pool

    def encode(self, example: Example, number: int, targets: Sequence[int] = ()) -> EncodedExample:
        """Encode the texts of an example."""
        encoding = self._encoding(example, number)
        ids: list[int] = encoding["input_ids"]
        if not ids:
            raise DataError("the text gives no tokens", place=place_of(number, "text"))
        segments = encoding.get("token_type_ids") or []
        return EncodedExample(
            number=number,
            input_ids=ids,
            select=(0 if self._pool == "first" else len(ids) - 1,),
            targets=targets,
            segment_ids=segments if any(segments) else (),
        )

    def attribution_input(
        self, example: Example, names: tuple[str, str] = ("text", "text_pair")
    ) -> AttributionInput:
        """Return an example with the words of its texts, which get the given names."""
        encoding = self._encoding(example, 1, offsets=True)
        encoded = self.encode(example, 1)
        texts = [input_text(self.tokenizer, names[0], text_field(example, "text", 1))]
        spans = _spans(encoding, 0, 0)
        owners = token_owners(spans, texts[0].words)
        unread = untouched(spans, texts[0].words)
        pair = self._pair(example, 1)
        if pair is not None:
            second = text_field(example, "text_pair", 1)
            texts.append(input_text(self.tokenizer, names[1], second))
            # a decoder's second text begins with a line end of its own
            spans = _spans(encoding, 1, len(pair) - len(second))
            later = token_owners(spans, texts[1].words)
            unread += untouched(spans, texts[1].words)
            first = len(texts[0].words)
            owners = [a if b is None else b + first for a, b in zip(owners, later, strict=True)]
        return AttributionInput(encoded, texts, padded_owners(owners, encoded), unread)

    def _encoding(self, example: Example, number: int, *, offsets: bool = False) -> BatchEncoding:
        return self.tokenizer(
            text_field(example, "text", number),
            self._pair(example, number),
            truncation=True,
            max_length=self._max_length,
            return_offsets_mapping=offsets,
        )

    def _pair(self, example: Example, number: int) -> str | None:
        if not is_given(example, "text_pair"):
            return None
        pair = text_field(example, "text_pair", number)
        # a decoder has no separator token: its pairs are two lines
        return pair if self._pool == "first" else f"\n{pair}"


@dataclass(frozen=True, slots=True)
class LabelAttribution:
    """Attribution of a label to the words of one or two texts; see ``AttributionSource``.

    Args:
        task: Name of the task.
        texts: Divides texts, or a recording, into words.
        labels: Label names in the order of the head's outputs.
        outcome: Returns choice and probabilities of a raw prediction.
        check: Returns the reference answer of an example in words, whether a raw prediction is
            correct, its probability, and the label to explain if it is not the likeliest.
        as_texts: Returns an example as ``text`` and ``text_pair``.
        names: Names of both texts.
        answers_by_label: Each label as an answer; the label itself where empty.
        explained: Index of the label that is explained unless another is requested; the
            likeliest where ``None``.
        independent: Whether labels are assigned independently of each other.
    """

    task: str
    texts: InputDivider
    labels: tuple[str, ...]
    outcome: Callable[[Any], Outcome]
    check: Callable[[Example, Any], tuple[str, bool, float, str | None]]
    as_texts: Callable[[Example], Example] | None = None
    names: tuple[str, str] = ("text", "text_pair")
    answers_by_label: tuple[str, ...] = ()
    explained: int | None = None
    independent: bool = False

    def windows(self, example: Example) -> Sequence[Example]:
        """Return the example itself."""
        return [example]

    def encode(self, window: Example) -> AttributionInput:
        """Encode an example; see ``AttributionSource``."""
        given = window if self.as_texts is None else self.as_texts(window)
        return self.texts.attribution_input(given, self.names)

    def targets(
        self,
        windows: Sequence[Example],
        decoded: Sequence[Any],
        *,
        label: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> list[tuple[int, Target]]:
        """Return the label as the only target; see ``AttributionSource``."""
        refuse_selection(self.task, label=None, span=span)
        probabilities = self.outcome(decoded[0]).probabilities
        if probabilities is None:
            return []
        index = self._index(label, int(probabilities.argmax()))
        measure = independent_label_log_odds if self.independent else label_log_odds
        target = Target(
            answer=(self.answers_by_label or self.labels)[index],
            quantity="log-odds of the label",
            probability=float(probabilities[index]),
            measure=partial(measure, index=index),
        )
        return [(0, target)]

    def answers(self, place: int, example: Example, decoded: Any) -> Iterator[CheckedAnswer]:
        """Yield the label of an example; see ``AttributionSource``."""
        expected, right, confidence, label = self.check(example, decoded)
        yield CheckedAnswer(place, expected, right, confidence, label)

    def _index(self, label: str | None, likeliest: int) -> int:
        if label is None:
            return likeliest if self.explained is None else self.explained
        if label not in self.labels:
            raise DataError(
                f"there is no label {label!r}",
                place=self.task,
                hint=did_you_mean(label, self.labels),
            )
        return self.labels.index(label)


class TextClassification(SingleLabelTask):
    """Examples have ``text``, maybe ``text_pair``, and ``label``: a name or a whole number."""

    name: str = "text-classification"
    pipeline_tag: str = "text-classification"
    peft_task_type: str = "SEQ_CLS"
    head: HeadKind = "sequence"
    default_metric: tuple[str, bool] = ("accuracy", True)
    audit: AuditSpec | None = AuditSpec("labels", "another label")

    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        self.texts = TextEncoder(preprocessor, self.options, pool)
        self._out_of_scope = _out_of_scope(self.labels, self.options.out_of_scope)

    @property
    def attribution(self) -> LabelAttribution:
        """Attribution of the label to the words of the texts."""
        check = partial(check_label, self.classes)
        return LabelAttribution(self.name, self.texts, self.labels, self.outcome, check)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode an example; see ``Task.encode``."""
        targets = self.classes.targets(example, number, train=train)
        return self.texts.encode(example, number, targets)

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label; see ``SingleLabelTask``.

        With ``out_of_scope`` also the accuracy on examples of the other labels and the recall
        of that label, 0 where no example has it. Source: Larson et al. 2019, "An Evaluation
        Dataset for Intent Classification and Out-of-Scope Prediction", arXiv:1909.02027.
        """
        scored = super().evaluate(examples, decoded)
        outside = self._out_of_scope
        if outside is None:
            return scored
        from sklearn.metrics import accuracy_score, recall_score

        expected, found = self.classes.all_gold(examples), predicted_labels(decoded)
        inside = [pair for pair in zip(expected, found, strict=True) if pair[0] != outside]
        accuracy = accuracy_score(*zip(*inside, strict=True)) if inside else 0.0
        recall = recall_score(expected, found, labels=[outside], average="macro", zero_division=0)
        scope = {"in_scope_accuracy": float(accuracy), "out_of_scope_recall": float(recall)}
        return replace(scored, metrics={**scored.metrics, **scope})

    def statistics(self, examples: Sequence[Example], decoded: Sequence[Tensor]) -> Scores:
        """Return expected and predicted label of each example."""
        return label_statistics(self.label_choices(examples, decoded), self._out_of_scope)


def check_label(
    classes: ClassLabels, example: Example, decoded: Tensor
) -> tuple[str, bool, float, None]:
    """Compare the likeliest label with the label of an example; see ``LabelAttribution``."""
    gold, best = classes.gold(example, 1), int(decoded.argmax())
    return classes.names[gold], gold == best, float(decoded[best]), None


def _out_of_scope(labels: Sequence[str], label: str | None) -> int | None:
    if label is None:
        return None
    if label not in labels:
        raise RecipeError(
            f"no training example has the label {label!r}",
            place="task.out_of_scope",
            hint=did_you_mean(label, labels),
        )
    return labels.index(label)


def _spans(encoding: Any, part: int, shift: int) -> list[tuple[int, int]]:
    """Return the span of each token in one text of a pair; empty for tokens of the other."""
    return [
        (start - shift, end - shift) if own == part else (0, 0)
        for own, (start, end) in zip(
            encoding.sequence_ids(0), encoding["offset_mapping"], strict=True
        )
    ]
