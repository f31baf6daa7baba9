"""Score an adapter on a file of examples, beside its base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub.tasks.base import Evaluation
from adapterhub.training.evaluate import Predictions, encode_labelled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.tasks.base import TextGeneration
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.text_scores import TextScores


@dataclass(frozen=True, slots=True)
class ScoresWithBase:
    """Metrics of an adapter and its base model, and the settings of those of generated texts."""

    base: Mapping[str, float]
    adapter: Mapping[str, float]
    signatures: Mapping[str, str] = field(default_factory=dict)


def score(loaded: LoadedAdapter, examples: Dataset) -> dict[str, float]:
    """Return the task's metrics of an adapter on labelled examples."""
    return dict(score_examples(loaded, examples.examples).evaluation.metrics)


def score_with_base(
    loaded: LoadedAdapter, examples: Dataset, *, generate: int = 0
) -> ScoresWithBase:
    """Return the metrics of an adapter and of its base model on the same examples.

    A generative task also generates and scores a text for the first ``generate`` examples, one
    that transcribes for all of them.
    """
    base, adapter = (
        score_examples(loaded, examples.examples, with_adapter=on).evaluation.metrics
        for on in (False, True)
    )
    generation = loaded.task.generation
    if loaded.task.transcription is not None:
        generate = len(examples)
    if not generate or generation is None:
        return ScoresWithBase(base, adapter)
    some = examples.examples[:generate]
    before, texts = (
        _score_texts(loaded, generation, some, with_adapter=on) for on in (False, True)
    )
    return ScoresWithBase(
        {**base, **before.metrics}, {**adapter, **texts.metrics}, texts.signatures
    )


def score_examples(
    loaded: LoadedAdapter, examples: Sequence[Example], *, with_adapter: bool = True
) -> Predictions:
    """Encode, predict and score labelled examples; those with nothing to score are left out.

    A task that reads windows is scored on all windows of an example.

    Args:
        loaded: Adapter whose task has the metrics.
        examples: Labelled examples.
        with_adapter: Whether the adapter is used; without it, its head reads the base model.

    Raises:
        DataError: naming the example that can't be used.
    """
    windows, encoded = encode_labelled(loaded.task, examples)
    decoded, loss = loaded.decode_with_loss(encoded, with_adapter=with_adapter)
    found = loaded.task.evaluate(windows, decoded)
    metrics = {"loss": loss or 0.0, **found.metrics}
    return Predictions(windows, decoded, Evaluation(metrics=metrics, table=found.table))


def _score_texts(
    loaded: LoadedAdapter,
    task: TextGeneration,
    examples: Sequence[Example],
    *,
    with_adapter: bool,
) -> TextScores:
    return task.score_texts(examples, loaded.write(examples, with_adapter=with_adapter))
