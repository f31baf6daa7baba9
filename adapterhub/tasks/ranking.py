"""Ranking for recommendation: the probability that a candidate is relevant given a history."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import AuditSpec, Evaluation, Outcome
from adapterhub.tasks.classification import LABEL_ERROR, ClassTask, label_text
from adapterhub.tasks.fields import is_given, place_of, required, text_field
from adapterhub.tasks.predictions import Confidence, ErrorExample, nats
from adapterhub.tasks.text_classification import LabelAttribution, TextEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Head, HeadKind, Pool
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array

#: Cutoff of the ranked list in NDCG.
CUTOFF = 10
#: Answers in words, for the labels 0 and 1.
RELEVANCE = ("not relevant", "relevant")
#: Resamples of ``RankedGroups``; an AUC over some thousand examples takes milliseconds.
_MAX_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class RelevanceJudgments:
    """Labels (1 for relevant, else 0), gains and groups of candidates; no group is empty text."""

    labels: Sequence[int]
    gains: Sequence[float]
    groups: Sequence[str]


class Ranking(ClassTask):
    """Examples have ``history``, ``candidate`` and ``label``: 1 if relevant, 0 if not.

    History and candidate are encoded as a pair of texts; a history may be a list of texts, the
    newest last, and loses its oldest where a pair is longer than ``max_length``. Examples of one
    ``group`` (a user, a request) are ranked against each other in scoring, by the ``gain`` of a
    candidate (a rating) or, without it, by its label.
    """

    name: str = "ranking"
    pipeline_tag: str = "text-classification"
    peft_task_type: str = "SEQ_CLS"
    head: HeadKind = "sequence"
    default_metric: tuple[str, bool] = ("auc", True)
    audit: AuditSpec | None = AuditSpec("ranking")

    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        if self.labels != ("0", "1"):
            raise RecipeError(
                f"the labels must be 0 and 1, not {', '.join(self.labels[:5])}",
                place="data.fields.label",
                hint="Give 1 to relevant or clicked candidates, 0 to others",
            )
        self.texts = TextEncoder(preprocessor, self.options, pool)
        self.tokenizer = preprocessor

    @property
    def attribution(self) -> LabelAttribution:
        """Attribution of a candidate's relevance to the words of history and candidate."""
        return LabelAttribution(
            self.name,
            self.texts,
            self.labels,
            self.outcome,
            self._check,
            as_texts=lambda example: self._pair(example, 1),
            names=("history", "candidate"),
            answers_by_label=RELEVANCE,
            explained=1,
        )

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode an example; see ``Task.encode``."""
        pair: dict[str, Any] = self._pair(example, number)
        if is_given(example, "label"):
            pair["label"] = label_text(example["label"], number, "label")
        targets = self.classes.targets(pair, number, train=train)
        return self.texts.encode(pair, number, targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[float]:
        """Return the probability that each candidate is relevant."""
        return [float(value) for value in self.classes.probabilities(head, hidden)[:, 1]]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``auc`` over all examples, ``ndcg_at_10`` over groups; see ``ranking_scores``."""
        return Evaluation(metrics=ranking_scores(self._judgments(examples), decoded))

    def prediction(self, example: Example, decoded: float) -> dict[str, Any]:
        """Return ``{"score"}``, the probability that the candidate is relevant."""
        return {"score": decoded}

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return the probability."""
        return f"{prediction['score']:.3f}"

    def outcome(self, decoded: float) -> Outcome:
        """Return whether the candidate is relevant, with the probabilities of both."""
        return Outcome((int(decoded >= 0.5),), torch.tensor([1.0 - decoded, decoded]))

    def confidence(
        self, examples: Sequence[Example], decoded: Sequence[float]
    ) -> Confidence | None:
        """Return the confidence of each candidate's relevance."""
        if not decoded:
            return None
        likely = np.array(decoded, dtype=float)
        table = np.stack((1.0 - likely, likely), axis=-1)
        return Confidence.of_choices("candidates", table, np.array(self._labels(examples)))

    def errors(self, examples: Sequence[Example], decoded: Sequence[float]) -> list[ErrorExample]:
        """Return the candidates on the wrong side of one half."""
        found = []
        for example, label, likely in zip(examples, self._labels(examples), decoded, strict=True):
            if (likely >= 0.5) != label:
                history = example["history"]
                known = history if isinstance(history, str) else "; ".join(history)
                text = f"{known or '-'} | {example['candidate']}"
                error = nats(likely if label else 1.0 - likely)
                expected, predicted = self.labels[label], f"{likely:.2f}"
                found.append(ErrorExample(text, expected, predicted, error, LABEL_ERROR))
        return found

    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: candidates are ordered, not labelled."""

    def statistics(
        self, examples: Sequence[Example], decoded: Sequence[float]
    ) -> RankedGroups | None:
        """Return the groups of candidates; ``None`` unless every candidate has one."""
        judgments = self._judgments(examples)
        return RankedGroups(judgments, decoded) if all(judgments.groups) else None

    def _check(self, example: Example, decoded: float) -> tuple[str, bool, float, str]:
        gold, best = self.classes.gold(example, 1), int(decoded >= 0.5)
        return RELEVANCE[gold], gold == best, max(decoded, 1 - decoded), self.labels[best]

    def _labels(self, examples: Sequence[Example]) -> list[int]:
        return self.classes.all_gold(examples)

    def _judgments(self, examples: Sequence[Example]) -> RelevanceJudgments:
        labels = self._labels(examples)
        pairs = enumerate(zip(examples, labels, strict=True), start=1)
        gains = [_gain(example, number, label) for number, (example, label) in pairs]
        groups = [str(each["group"]) if is_given(each, "group") else "" for each in examples]
        return RelevanceJudgments(labels, gains, groups)

    def _pair(self, example: Example, number: int) -> dict[str, str]:
        """Return history and candidate as ``{"text", "text_pair"}``."""
        candidate = text_field(example, "candidate", number)
        return {"text": self._history(example, number, candidate), "text_pair": candidate}

    def _history(self, example: Example, number: int, candidate: str) -> str:
        """Return the newest part of the history that fits beside the candidate."""
        value = required(example, "history", number)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(each, str) for each in items):
            raise DataError(
                "a history must be a text or a list of texts", place=place_of(number, "history")
            )
        if not any(item.strip() for item in items):
            # a new user without a history
            return "-"
        first = 0
        while first < len(items) - 1 and not self._fits("; ".join(items[first:]), candidate):
            first += 1
        return "; ".join(items[first:])

    def _fits(self, history: str, candidate: str) -> bool:
        # a decoder's pair has a line end between its texts
        ids = self.tokenizer(history, f"\n{candidate}", verbose=False)["input_ids"]
        return len(ids) <= self.options.max_length


@dataclass(frozen=True, slots=True, eq=False)
class RankedGroups:
    """Predictions for candidates in groups, of which whole groups are resampled.

    The ratings of one user depend on each other, and NDCG is a mean over users: resampling
    single examples would split a user's list, and give intervals that are too narrow.
    """

    judgments: RelevanceJudgments
    predicted: Sequence[float]
    max_resamples: int | None = _MAX_RESAMPLES
    #: [examples], group of each example
    group_of: Array = field(init=False)
    #: [groups], NDCG of each; NaN where a group has no ranking
    ndcg: Array = field(init=False)

    def __post_init__(self) -> None:
        names, group_of = np.unique(np.array(self.judgments.groups), return_inverse=True)
        by_group = _group_ndcgs(self.judgments, self.predicted)
        object.__setattr__(self, "group_of", group_of)
        object.__setattr__(self, "ndcg", np.array([by_group[name] for name in names.tolist()]))

    @property
    def size(self) -> int:
        """Number of groups."""
        return len(self.ndcg)

    def metrics(self, indices: Array) -> Mapping[str, Array]:
        """Return ``auc`` and ``ndcg_at_10`` of each resample; see ``Scores``."""
        counts = np.stack([np.bincount(drawn, minlength=self.size) for drawn in indices])
        found = {"auc": np.array([self._auc(each) for each in counts])}
        ranked = ~np.isnan(self.ndcg)
        if ranked.any():
            weights = counts[:, ranked]
            total = weights.sum(-1)
            sums = weights @ self.ndcg[ranked]
            found["ndcg_at_10"] = np.divide(
                sums, total, out=np.full(len(total), np.nan), where=total > 0
            )
        return found

    def _auc(self, counts: Array) -> float:
        """Return the AUC with each group counted so often; NaN where one label is left."""
        from sklearn.metrics import roc_auc_score

        weights = counts[self.group_of]
        labels = np.array(self.judgments.labels)
        if len(set(labels[weights > 0])) < 2:
            return float("nan")
        return float(roc_auc_score(labels, self.predicted, sample_weight=weights))


def ranking_scores(judgments: RelevanceJudgments, predicted: Sequence[float]) -> dict[str, float]:
    """Return ``auc`` over all examples, ``ndcg_at_10`` over groups, and ``groups`` counted.

    Examples without a group, and groups without a ranking (see ``_group_ndcgs``), do not count;
    without any group ``ndcg_at_10`` is missing.

    Raises:
        DataError: when there are no examples, or all have the same label.
    """
    from sklearn.metrics import roc_auc_score

    labels = judgments.labels
    if len(set(labels)) < 2:
        raise DataError(
            f"all examples have the label {labels[0]}" if labels else "there are no examples",
            hint="AUC needs examples of both labels",
        )
    ranked = [
        value for value in _group_ndcgs(judgments, predicted).values() if not math.isnan(value)
    ]
    scores = {"auc": float(roc_auc_score(labels, predicted)), "groups": float(len(ranked))}
    if ranked:
        scores["ndcg_at_10"] = sum(ranked) / len(ranked)
    return scores


def _group_ndcgs(judgments: RelevanceJudgments, predicted: Sequence[float]) -> dict[str, float]:
    """Return NDCG at 10 of each group; NaN for a group without a ranking.

    Gains have a logarithmic discount, and equal scores share the mean of their positions, as in
    scikit-learn. A single candidate, and candidates without any gain, have no ranking.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".
    """
    from sklearn.metrics import ndcg_score

    members: dict[str, list[int]] = {}
    for index, group in enumerate(judgments.groups):
        if group:
            members.setdefault(group, []).append(index)
    found = {}
    for group, places in members.items():
        gains = [judgments.gains[place] for place in places]
        ranked = len(gains) > 1 and any(gains)
        scores = [predicted[place] for place in places]
        found[group] = float(ndcg_score([gains], [scores], k=CUTOFF)) if ranked else math.nan
    return found


def _gain(example: Example, number: int, label: int) -> float:
    value = example.get("gain")
    if value is None:
        return float(label)
    number_given = isinstance(value, int | float) and not isinstance(value, bool)
    if not number_given or not 0 <= value < math.inf:
        raise DataError(
            f"a gain must be a number of at least 0, not {value!r}", place=place_of(number, "gain")
        )
    return float(value)
