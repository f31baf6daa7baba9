"""Audits by kind of task: inputs about people, and what counts as a changed prediction."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

import torch

from adapterhub.evaluation.bias_audit.counterfactuals import (
    GIVEN,
    GIVEN_CANDIDATE,
    GIVEN_HISTORY,
    LISTS_CANDIDATE,
    LISTS_HISTORY,
    PASSAGES,
    AuditInput,
    counterfactual_sets,
    fill_template,
    given_sets,
    sentence_sets,
)
from adapterhub.evaluation.bias_audit.substitution import ATTRIBUTES, tokenize
from adapterhub.evaluation.bias_audit.templates import read_passages, read_sentences, read_topics
from adapterhub.tasks.base import AuditSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from adapterhub.evaluation.bias_audit.counterfactuals import CounterfactualSet
    from adapterhub.evaluation.bias_audit.substitution import Substituter
    from adapterhub.evaluation.bias_audit.templates import Passage, Topic, Words
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.question_answering import FoundSpan

#: Number of other candidates that are ranked beside a given one.
OTHER_CANDIDATES = 4
#: Score difference up to which two candidates are tied: rounding can swap them.
TIE = 1e-3
#: Labels up to which changes of all probabilities are kept and a linear probe is trained: both
#: take memory for each label and pair or feature.
MAX_OUTPUTS = 1000
#: Maximum number of given lists per attribute and field, and of given contexts per attribute.
_LISTS, _CONTEXTS = 20, 12


@dataclass(frozen=True, slots=True, eq=False)
class PredictionChange:
    """Difference of a prediction between an example and its counterfactual.

    Args:
        delta: Change of each output's probability; ``None`` without probabilities.
        shift: Largest absolute change of a probability.
    """

    changed: bool
    # [outputs]
    delta: Tensor | None = None
    shift: float = 0.0


class TaskAudit(Protocol):
    """Audit of one kind of task."""

    #: Names of the outputs of ``PredictionChange.delta``.
    outputs: tuple[str, ...]
    #: Definition of a changed prediction and of its shift, for the report.
    definition: str
    #: Number of labelled examples that the linear probe is trained on, and that are scored.
    num_training_examples: int
    num_scored_examples: int

    @property
    def task(self) -> Task:
        """The audited task."""

    def builtin_sets(self, substituter: Substituter, words: Words) -> list[CounterfactualSet]:
        """Return the built-in examples with their counterfactuals."""

    def given_sets(
        self, examples: Sequence[Example], substituter: Substituter
    ) -> list[CounterfactualSet]:
        """Return a sample of the examples with their counterfactuals."""

    def inputs(self, example: Example) -> Sequence[Example]:
        """Return the inputs that are predicted for an example."""

    def compare(
        self, example: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> PredictionChange:
        """Compare the predictions of an example and its counterfactual.

        Args:
            found: Raw prediction of each of the ``inputs`` of the example.
            others: Raw prediction of each of the ``inputs`` of the counterfactual.
        """

    def answer_text(self, example: Example, found: Sequence[Any]) -> str:
        """Return a prediction as text."""

    def input_text(self, example: Example) -> str:
        """Return an example as text."""


class LabelAudit:
    """Audit of a task that predicts labels of a text, or tags of its words."""

    num_training_examples: int = 600
    num_scored_examples: int = 120

    def __init__(self, task: Task) -> None:
        """Create the audit of ``task``."""
        self.task = task
        self.outputs = task.labels
        self._spec = task.audit or AuditSpec("labels")
        self.definition = (
            f"A prediction counts as changed when it is {self._spec.change}. The shift, where "
            "there is one, is the mean of the largest change of a label's probability; the label "
            "with the largest gain is beside it."
        )

    def builtin_sets(self, substituter: Substituter, words: Words) -> list[CounterfactualSet]:
        """Return the built-in sentences; none for tasks whose texts need markup."""
        if not self._spec.plain_texts:
            return []
        return sentence_sets(substituter, read_sentences(), words)

    def given_sets(
        self, examples: Sequence[Example], substituter: Substituter
    ) -> list[CounterfactualSet]:
        """Return a sample of the examples; see ``TaskAudit``."""
        return given_sets(examples, substituter)

    def inputs(self, example: Example) -> Sequence[Example]:
        """Return the example itself."""
        return [example]

    def compare(
        self, example: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> PredictionChange:
        """Compare two labels, sets of labels, or sequences of tags."""
        one, two = self.task.outcome(found[0]), self.task.outcome(others[0])
        changed = one.choice != two.choice
        if one.probabilities is None or two.probabilities is None:
            return PredictionChange(changed)
        if len(self.outputs) > MAX_OUTPUTS:
            return PredictionChange(changed)
        delta = two.probabilities - one.probabilities
        return PredictionChange(changed, delta, float(delta.abs().max()))

    def answer_text(self, example: Example, found: Sequence[Any]) -> str:
        """Return a prediction as text."""
        return self.task.summary(self.task.prediction(example, found[0]))

    def input_text(self, example: Example) -> str:
        """Return the texts of an example."""
        parts = [example[field] for field in ("text", "text_pair", "tokens") if example.get(field)]
        return " | ".join(part if isinstance(part, str) else " ".join(part) for part in parts)


class RankingAudit:
    """Audit of a task that ranks candidates; audited examples have ``others`` as well.

    Words are substituted either in the history, for all candidates, or in one candidate.
    """

    outputs: tuple[str, ...] = ("score",)
    definition = (
        "A ranking counts as changed when two candidates swap places and their scores differ by "
        "more than 0.001. Words are substituted either in the history or in one candidate. The "
        "shift is the mean of the largest change of a score; the mean gain is beside it."
    )
    num_training_examples: int = 600
    num_scored_examples: int = 120

    def __init__(self, task: Task) -> None:
        """Create the audit of ``task``."""
        self.task = task

    def builtin_sets(self, substituter: Substituter, words: Words) -> list[CounterfactualSet]:
        """Return the built-in lists of candidates."""
        return [
            each
            for attribute in ATTRIBUTES
            for place, audit_input in enumerate(_builtin_lists(read_topics(), attribute, words))
            for each in counterfactual_sets(substituter, audit_input, attribute, place)
        ]

    def given_sets(
        self, examples: Sequence[Example], substituter: Substituter
    ) -> list[CounterfactualSet]:
        """Return a sample of the examples, each with other candidates of its group."""
        candidates = _CandidateLists(examples)

        def inputs(example: Example) -> list[AuditInput]:
            listed = candidates.listed(example)
            return [
                AuditInput(GIVEN_HISTORY, listed, ("history",)),
                AuditInput(GIVEN_CANDIDATE, listed, ("candidate",)),
            ]

        return given_sets(examples, substituter, inputs=inputs, limit=_LISTS)

    def inputs(self, example: Example) -> Sequence[Example]:
        """Return one input per candidate."""
        candidates = (example["candidate"], *example["others"])
        return [{"history": example["history"], "candidate": each} for each in candidates]

    def compare(
        self, example: Example, found: Sequence[float], other: Example, others: Sequence[float]
    ) -> PredictionChange:
        """Compare two rankings, or for a single candidate two relevance decisions."""
        deltas = [after - before for before, after in zip(found, others, strict=True)]
        affected = deltas if example["history"] != other["history"] else deltas[:1]
        single = len(found) == 1
        return PredictionChange(
            changed=_flipped(*found, *others) if single else _reordered(found, others),
            delta=torch.tensor([sum(affected) / len(affected)]),
            shift=max(map(abs, affected)),
        )

    def answer_text(self, example: Example, found: Sequence[float]) -> str:
        """Return the ranked candidates with their scores."""
        candidates = (example["candidate"], *example["others"])
        order = sorted(zip(found, candidates, strict=True), key=lambda pair: -pair[0])
        return "; ".join(f"{score:.3f} {text}" for score, text in order)

    def input_text(self, example: Example) -> str:
        """Return history and candidate."""
        history = example["history"]
        joined = history if isinstance(history, str) else "; ".join(history)
        return f"{joined} | {example['candidate']}"


class AnswerAudit:
    """Audit of a task that extracts the answer to a question from a context.

    A substitution keeps the number of words, and an answer is compared by the positions of its
    words. So an answer that contains the substituted word is unchanged.
    """

    outputs: tuple[str, ...] = ()
    definition = (
        "An answer counts as changed when it moves to another place in the context, or when only "
        "one of the two texts has an answer. An answer that contains the substituted word is "
        "unchanged."
    )
    num_training_examples: int = 100
    num_scored_examples: int = 50

    def __init__(self, task: Task) -> None:
        """Create the audit of ``task``."""
        self.task = task

    def builtin_sets(self, substituter: Substituter, words: Words) -> list[CounterfactualSet]:
        """Return the built-in passages, once per question."""
        passages = read_passages()
        return [
            each
            for attribute in ATTRIBUTES
            for place, example in enumerate(_questions(passages[attribute], attribute, words))
            for each in counterfactual_sets(
                substituter, AuditInput(PASSAGES, example), attribute, place
            )
        ]

    def given_sets(
        self, examples: Sequence[Example], substituter: Substituter
    ) -> list[CounterfactualSet]:
        """Return a sample of the examples, without their answers."""

        def inputs(example: Example) -> list[AuditInput]:
            fields = ("question", "context")
            return [AuditInput(GIVEN, {field: example.get(field) for field in fields})]

        return given_sets(examples, substituter, inputs=inputs, limit=_CONTEXTS)

    def inputs(self, example: Example) -> Sequence[Example]:
        """Return the windows of the context."""
        return self.task.windows(example)

    def compare(
        self, example: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> PredictionChange:
        """Compare the positions of two answers."""
        one, two = self._answer(example, found), self._answer(other, others)
        return PredictionChange(
            _word_positions(example["context"], one) != _word_positions(other["context"], two)
        )

    def answer_text(self, example: Example, found: Sequence[Any]) -> str:
        """Return the answer with its probability."""
        answer = self._answer(example, found)
        return f"{answer['answer'] or '(no answer)'} {answer['score']:.2f}"

    def input_text(self, example: Example) -> str:
        """Return question and context."""
        return f"{example['question']} | {example['context']}"

    def _answer(self, example: Example, found: Sequence[FoundSpan]) -> dict[str, Any]:
        windows = self.inputs(example)
        return self.task.join(
            [self.task.prediction(*each) for each in zip(windows, found, strict=True)]
        )


class _CandidateLists:
    """Candidates by group; examples without a group are one group."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._positions: dict[str, dict[str, int]] = {}
        for example in examples:
            positions = self._positions.setdefault(_group(example), {})
            positions.setdefault(str(example.get("candidate")), len(positions))
        self._candidates: Mapping[str, Sequence[str]] = {
            group: list(positions) for group, positions in self._positions.items()
        }

    def listed(self, example: Example) -> Example:
        """Return history and candidate with the candidates that follow it in its group."""
        group, candidate = _group(example), str(example.get("candidate"))
        candidates = self._candidates[group]
        first = self._positions[group][candidate] + 1
        count = min(OTHER_CANDIDATES, len(candidates) - 1)
        others = [candidates[(first + step) % len(candidates)] for step in range(count)]
        return {"history": example.get("history"), "candidate": candidate, "others": others}


def _group(example: Example) -> str:
    return str(example.get("group") or "")


def _builtin_lists(topics: Sequence[Topic], attribute: str, words: Words) -> Iterator[AuditInput]:
    for place, topic in enumerate(topics):
        for filled in fill_template(getattr(topic, attribute), attribute, words, place):
            first, *others = topic.candidates
            history = [*topic.history, filled]
            example = {"history": history, "candidate": first, "others": others}
            yield AuditInput(LISTS_HISTORY, example, ("history",))
            example = {"history": topic.history, "candidate": filled, "others": topic.candidates}
            yield AuditInput(LISTS_CANDIDATE, example, ("candidate",))


def _reordered(before: Sequence[float], after: Sequence[float]) -> bool:
    """Return whether two candidates swap places, without being tied before or after."""
    return any(
        min(abs(before[a] - before[b]), abs(after[a] - after[b])) > TIE
        and (before[a] > before[b]) != (after[a] > after[b])
        for a, b in combinations(range(len(before)), 2)
    )


def _flipped(before: float, after: float) -> bool:
    return (before >= 0.5) != (after >= 0.5)


def _questions(
    passages: Sequence[Passage], attribute: str, words: Words
) -> Iterator[dict[str, Any]]:
    for place, passage in enumerate(passages):
        # genders alternate, because there are enough questions
        texts = list(fill_template(passage.context, attribute, words, place))
        for question in passage.questions:
            yield {"question": question, "context": texts[place % len(texts)]}


def _word_positions(context: str, answer: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the positions of the words and signs of an answer; none for no answer."""
    found, end = [], 0
    for position, token in enumerate(tokenize(context)):
        start, end = end, end + len(token)
        if start < answer["end"] and end > answer["start"] and not token.isspace():
            found.append(position)
    return tuple(found)
