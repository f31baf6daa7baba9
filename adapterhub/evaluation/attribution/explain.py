"""Explanations of an adapter's answers by word attributions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.methods import SILENCE, STEPS, attribute, eval_mode
from adapterhub.tasks.attribution import Target, tokens_log_probability

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.attribution.methods import Attribution, AttributionMethod
    from adapterhub.tasks.attribution import AttributionInput, AttributionSource
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example

#: Share of the explained difference above which the gap calls for more steps. Source: the paper of
#: integrated gradients, section 5: within 5 %.
LARGE_GAP = 0.05


@dataclass(frozen=True, slots=True)
class ExplainedWord:
    """A word with its attribution.

    Args:
        attribution: Its contribution to the target; positive for the answer, negative against it.
    """

    text: str
    word: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Word attributions of one answer.

    Args:
        quantity: Name and unit of the target.
        value: Target value of the input.
        baseline_value: Target value of the baseline; ``None`` for ablation.
        baseline: Baseline token; empty for ablation.
        steps: Number of integration steps; 0 for ablation.
        unread: Number of words that were truncated and have no attribution.
        start: First character of an answer that is part of the last text.
    """

    answer: str
    probability: float | None
    quantity: str
    value: float
    baseline_value: float | None
    baseline: str
    method: AttributionMethod
    steps: int
    gap: float | None
    texts: Mapping[str, str]
    words: Sequence[ExplainedWord]
    unread: int
    start: int | None = None
    end: int | None = None

    @property
    def gap_share(self) -> float:
        """Gap relative to the explained difference; 0 for ablation, infinite for no difference."""
        if self.gap is None or self.baseline_value is None:
            return 0.0
        difference = abs(self.value - self.baseline_value)
        return abs(self.gap) / difference if difference else float("inf")

    @property
    def unit(self) -> str:
        """What has an attribution: a word, or a part of a recording."""
        return "part" if self.baseline == SILENCE else "word"

    @property
    def max_attribution(self) -> float:
        """Largest absolute attribution, and 1 where all are 0."""
        return max((abs(word.attribution) for word in self.words), default=0.0) or 1.0

    def document(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values."""
        return asdict(self)

    def segments(self, name: str) -> Iterator[tuple[str, float | None]]:
        """Yield a text in segments: words with their attributions, the rest without."""
        text, end = self.texts[name], 0
        for word in self.words:
            if word.text == name:
                if word.start > end:
                    yield text[end : word.start], None
                yield text[word.start : word.end], word.attribution
                end = word.end
        if end < len(text):
            yield text[end:], None


def explain(
    model: TaskModel,
    task: Task,
    example: Example,
    *,
    label: str | None = None,
    span: tuple[int, int] | None = None,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
    decoded: Sequence[Any] | None = None,
) -> list[Explanation]:
    """Explain the predictions of an adapter with a task head.

    Args:
        model: Model that the attributions are computed with.
        task: Task of the adapter.
        example: Example of the task; the reference answer is not needed.
        label: Label to explain instead of the predicted one, or type of spans.
        span: Characters that an explained span must overlap.
        steps: Number of integration steps.
        method: Attribution method; that of the kind of backbone by default.
        decoded: Raw predictions to explain, of ``window_inputs``; those of ``model`` by default.

    Returns:
        One explanation of a label or an answer; one of each predicted span, in text order.
    """
    source = _source(task)
    windows, inputs = source.windows(example), window_inputs(task, example)
    if decoded is None:
        decoded = [_decode(model, task, each.example) for each in inputs]
    return [
        _explanation(
            inputs[at], target, attribute(model, inputs[at], target, steps=steps, method=method)
        )
        for at, target in source.targets(windows, decoded, label=label, span=span)
    ]


def window_inputs(task: Task, example: Example) -> list[AttributionInput]:
    """Return the windows of an example as inputs of an attribution.

    Raises:
        DataError: If the task's predictions cannot be explained, or the example has no word.
    """
    source = _source(task)
    return [attribution_input(source, window, task.name) for window in source.windows(example)]


def _source(task: Task) -> AttributionSource:
    if task.attribution is None:
        raise DataError(
            f"the answers of {task.name} cannot be explained",
            hint="Labels, relations, rankings, spans and generated text can be explained",
        )
    return task.attribution


def explain_text(
    model: TaskModel,
    task: Task,
    messages: Sequence[Message],
    answer: str,
    *,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
) -> Explanation:
    """Explain the likelihood of an answer by the words of its conversation."""
    if task.generation is None:
        raise DataError("does not generate text", place=task.name)
    inputs = task.generation.attribution_input(messages, answer)
    tokens = list(inputs.example.targets)
    quantity = f"log-probability of the answer's {len(tokens)} tokens, in nats"
    target = Target(answer, quantity, None, partial(tokens_log_probability, tokens=tokens))
    return _explanation(
        inputs, target, attribute(model, inputs, target, steps=steps, method=method)
    )


def attribution_input(source: AttributionSource, window: Example, task: str) -> AttributionInput:
    """Encode an example with the word of each token."""
    inputs = source.encode(window)
    if not any(owner is not None for owner in inputs.owners):
        raise DataError("the example has no word to explain the answer by", place=task)
    return inputs


def _decode(model: TaskModel, task: Task, example: EncodedExample) -> Any:
    """Return the raw prediction of one example."""
    batch = pack([example]).to(model.backbone.device)
    with eval_mode(model), torch.no_grad():
        (decoded,) = task.decode(model.head, model.hidden(batch), batch)
    return decoded


def _explanation(inputs: AttributionInput, target: Target, found: Attribution) -> Explanation:
    names = _unique_names([text.name for text in inputs.texts])
    texts = dict(zip(names, inputs.texts, strict=True))
    words = [(name, word) for name, text in texts.items() for word in text.words]
    return Explanation(
        answer=target.answer,
        probability=target.probability,
        quantity=target.quantity,
        value=found.value,
        baseline_value=found.baseline_value,
        baseline=found.baseline,
        method=found.method,
        steps=found.steps,
        gap=found.gap,
        texts={name: text.text for name, text in texts.items()},
        words=[
            ExplainedWord(name, word.text, word.start, word.end, attribution)
            for (name, word), attribution in zip(words, found.words, strict=True)
        ],
        unread=inputs.unread,
        start=target.start,
        end=target.end,
    )


def _unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated names: a second message of the user is ``user 2``."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return unique
