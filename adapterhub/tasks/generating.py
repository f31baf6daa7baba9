"""What tasks that generate text have in common: the loss and the scores of reference answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import Evaluation, Outcome, UnsplitTask
from adapterhub.tasks.predictions import ErrorExample, ExampleStatistics, ratio
from adapterhub.tasks.preprocessors import check_tokenizer
from adapterhub.tasks.token_loss import summed_cross_entropy, token_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import AuditSpec, Head, TaskOptions
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Score of an example's reference answers under the model.

    Args:
        loss: Cross entropy summed over the answers' tokens, in nats, without label smoothing.
        tokens: Number of tokens.
        correct: Number of tokens that are the likeliest at their position.
    """

    loss: float
    tokens: int
    correct: int

    @property
    def mean_loss(self) -> float:
        """Cross entropy per token, in nats."""
        return self.loss / max(self.tokens, 1)


class GeneratingTask(UnsplitTask):
    """Base of tasks whose predictions are generated texts.

    Their raw predictions are scores of the reference answers; texts are generated and scored
    through ``generation``.
    """

    labels: tuple[str, ...] = ()
    default_metric: tuple[str, bool] = ("loss", False)
    audit: AuditSpec | None = None
    attribution: None = None
    #: tokens that end generation
    stop_ids: frozenset[int]
    #: texts that end generation
    stop_strings: tuple[str, ...]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> None:
        """Check that the tokenizer is fast and fits the settings."""
        check_tokenizer(tokenizer, options.max_length)
        if options.class_weights is not None:
            raise RecipeError("generated texts have no class weights", place="task.class_weights")
        self.tokenizer = tokenizer
        self.options = options

    @final
    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        for stop in self.stop_strings:
            text = text.partition(stop)[0]
        return text.strip()

    @final
    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the cross entropy summed over the answers' tokens, a scalar."""
        return summed_cross_entropy(head, hidden, batch.targets, self.options.label_smoothing)

    @final
    def weight(self, batch: PackedBatch) -> float:
        """Return the number of answer tokens."""
        return float(batch.targets.numel())

    @final
    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[AnswerScore]:
        """Return the score of each example's answers."""
        losses, hits = token_scores(head, hidden, batch.targets)
        parts = zip(losses.double().split(batch.selected), hits.split(batch.selected), strict=True)
        return [AnswerScore(float(loss.sum()), len(loss), int(hit.sum())) for loss, hit in parts]

    @final
    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return ``loss`` (nats per token), ``perplexity`` and ``token_accuracy`` of the answers.

        Texts are scored by ``score_texts``, once they are generated.
        """
        tokens = sum(score.tokens for score in decoded)
        if not tokens:
            raise DataError("there are no answers to score")
        loss = sum(score.loss for score in decoded) / tokens
        return Evaluation(
            metrics={
                "loss": loss,
                "perplexity": math.exp(loss) if loss < 700 else math.inf,
                "token_accuracy": sum(score.correct for score in decoded) / tokens,
            }
        )

    @final
    def prediction(self, example: Example, decoded: AnswerScore) -> dict[str, Any]:
        """Return ``{"loss", "tokens", "correct"}`` of the example's own answers.

        Text is generated from ``messages`` and decoded by ``text_of``.
        """
        return {
            "loss": decoded.mean_loss,
            "tokens": decoded.tokens,
            "correct": decoded.correct,
        }

    @final
    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return a generated ``answer``, or the ``text`` of a transcript."""
        return prediction.get("answer") or prediction.get("text") or "(none)"

    @final
    def outcome(self, decoded: AnswerScore) -> Outcome:
        """Return how many tokens of the answers are the likeliest."""
        return Outcome((decoded.correct,))

    @final
    def confidence(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a text is no choice."""

    @final
    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a text is no label."""

    @final
    def statistics(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> ExampleStatistics:
        """Return loss and number of tokens of each example."""
        values = [[score.loss, score.tokens, score.correct] for score in decoded]
        return ExampleStatistics(np.array(values, dtype=float), _token_metrics, ("tokens",))


def answer_error(question: str, reference: str, score: AnswerScore) -> ErrorExample:
    """Return the mean loss of a reference answer as an error."""
    return ErrorExample(question, reference, "", score.mean_loss, "cross entropy, nats per token")


def _token_metrics(sums: Array) -> dict[str, Array]:
    loss, tokens, correct = np.moveaxis(sums, -1, 0)
    mean = ratio(loss, tokens)
    return {
        "loss": mean,
        "perplexity": np.exp(np.minimum(mean, 700.0)),
        "token_accuracy": ratio(correct, tokens),
    }
