"""The examples that an adapter is most wrong about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.data.images import ImageFile
from adapterhub.evaluation.duplicates import answer_of, text_of
from adapterhub.evaluation.example_statistics import gold_labels
from adapterhub.evaluation.joined_answers import joined_answers
from adapterhub.tasks.bio import spans
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.fields import required
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.instructed import Instructed
from adapterhub.tasks.labels import label_list
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.base import Example, Task

_SMALLEST = 1e-12
_NO_ANSWER = "(no answer)"


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """An example and what was said of it.

    Args:
        text: of the example.
        expected: the right answer.
        found: the answer given; empty where none is made.
        badness: the more, the worse; see ``measure``.
        measure: what ``badness`` counts.
    """

    text: str
    expected: str
    found: str
    badness: float
    measure: str


def worst_examples(
    task: Task, examples: Sequence[Example], decoded: Sequence[Any], *, count: int = 10
) -> list[ErrorExample]:
    """Return the examples with the worst answers, the worst first; examples that are right are left out.

    Args:
        task: that made the predictions.
        examples: with their answers.
        decoded: raw prediction of each example.
        count: at most so many.
    """
    if isinstance(task, TextClassification | ImageClassification):
        found = _classes(task, examples, decoded)
    elif isinstance(task, RelationExtraction):
        found = _classes(task.texts, examples, decoded)
    elif isinstance(task, MultiLabelClassification):
        found = _label_sets(task, examples, decoded)
    elif isinstance(task, Ranking):
        found = _candidates(task, examples, decoded)
    elif isinstance(task, TokenClassification):
        found = _tags(task, examples, decoded)
    elif isinstance(task, QuestionAnswering):
        found = _answers(task, examples, decoded)
    elif isinstance(task, Dialogue | Instructed):
        found = _texts(task, examples, decoded)
    else:
        return []
    return sorted(found, key=lambda each: -each.badness)[:count]


def _classes(
    task: TextClassification | ImageClassification,
    examples: Sequence[Example],
    decoded: Sequence[Any],
) -> list[ErrorExample]:
    found = []
    for example, gold, scores in zip(examples, gold_labels(task, examples), decoded, strict=True):
        said = int(scores.argmax())
        if said != gold:
            badness = _nats(float(scores[gold]))
            answer = f"{task.labels[said]} ({float(scores[said]):.2f})"
            found.append(
                ErrorExample(
                    _shown(example), task.labels[gold], answer, badness, "nats of the label"
                )
            )
    return found


def _label_sets(
    task: MultiLabelClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[ErrorExample]:
    found = []
    for number, (example, chances) in enumerate(zip(examples, decoded, strict=True), start=1):
        names = label_list(required(example, "label", number), number, "label")
        has = {task.texts.index.name(each, number, "label") for each in names}
        given = task.prediction(example, chances)["labels"]
        if set(given) != has:
            badness = sum(
                _nats(float(chance) if label in has else 1.0 - float(chance))
                for label, chance in zip(task.labels, chances, strict=True)
            )
            right, said = ", ".join(sorted(has)) or "(none)", ", ".join(given) or "(none)"
            found.append(ErrorExample(_shown(example), right, said, badness, "nats of all labels"))
    return found


def _candidates(
    task: Ranking, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[ErrorExample]:
    found = []
    for example, label, chance in zip(examples, task.judged(examples).labels, decoded, strict=True):
        if (chance >= 0.5) != label:
            history = example["history"]
            liked = history if isinstance(history, str) else "; ".join(history)
            badness = _nats(chance if label else 1.0 - chance)
            text, right = f"{liked or '-'} | {example['candidate']}", task.labels[label]
            found.append(ErrorExample(text, right, f"{chance:.2f}", badness, "nats of the label"))
    return found


def _answers(
    task: QuestionAnswering, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[ErrorExample]:
    return [
        ErrorExample(
            text=f"{each.example['question']} | {each.example['context']}",
            expected=" / ".join(dict.fromkeys(each.expected)) or _NO_ANSWER,
            found=each.said or _NO_ANSWER,
            badness=each.sure,
            measure="probability of it",
        )
        for each in joined_answers(task, examples, decoded)
        if not each.right
    ]


def _texts(
    task: Dialogue | Instructed, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[ErrorExample]:
    found = []
    for number, (example, score) in enumerate(zip(examples, decoded, strict=True), start=1):
        if isinstance(task, Instructed):
            text = task.question(example, number)[-1]["content"]
            right = task.wording.references(example, number)[0]
        else:
            text, right = text_of(example), answer_of(example)
        badness = score.loss / max(score.tokens, 1)
        found.append(ErrorExample(text, right, "", badness, "nats a token"))
    return found


def _nats(chance: float) -> float:
    return -math.log(max(chance, _SMALLEST))


def _shown(example: Example) -> str:
    """Return an example's text, or the name of its image."""
    image = example.get("image")
    return image.name if isinstance(image, ImageFile) else text_of(example)


def _tags(
    task: TokenClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> list[ErrorExample]:
    found = []
    for number, (example, tags) in enumerate(zip(examples, decoded, strict=True), start=1):
        words = [str(word) for word in example["tokens"]]
        gold, said = (set(spans(each)) for each in task.named_tags(example, number, tags))
        wrong = len(gold ^ said)
        if wrong:
            found.append(
                ErrorExample(
                    " ".join(words),
                    _listed(gold - said, words),
                    _listed(said - gold, words),
                    float(wrong),
                    "spans missed or made up",
                )
            )
    return found


def _listed(found: set[tuple[str, int, int]], words: Sequence[str]) -> str:
    ordered = sorted(found, key=lambda span: span[1:])
    return "; ".join(f"{' '.join(words[a:b])} [{kind}]" for kind, a, b in ordered) or "(none)"
