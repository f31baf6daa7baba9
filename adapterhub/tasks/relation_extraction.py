"""Relation extraction: which directed relation holds between two marked entities of a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sklearn.metrics import accuracy_score

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.fields import place_of, required, text_field
from adapterhub.tasks.read_once import ReadOnce
from adapterhub.tasks.relation_scores import DIRECTED, relation_of, relation_scores
from adapterhub.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Example, Head, TaskOptions

_TAGGED = re.compile(r"<(e[12])>(.*?)</\1>", re.DOTALL)
#: What stands around an entity in the text that the backbone reads. Signs that every tokenizer
#: knows need no new embedding, and the backbone is frozen.
#: Source: Zhou and Chen 2022, arXiv:2102.01373, "entity marker (punct)".
MARKERS = {"e1": "@", "e2": "#"}


@dataclass(frozen=True, slots=True)
class Entity:
    """One of the two entities of a text.

    Args:
        name: ``e1`` or ``e2``; which of them comes first in the text is open.
        start: of its first character in the text without tags.
        end: one past its last character.
    """

    name: str
    start: int
    end: int


class RelationExtraction(ReadOnce):
    """Examples have ``text`` with ``<e1>…</e1>`` and ``<e2>…</e2>`` in it, and ``label``.

    A label is a relation with its direction, such as ``Cause-Effect(e2,e1)``, or one without
    (``Other``), which says that none of the relations holds. The head is read once an example, as
    in text classification. A text longer than ``max_length`` loses what stands before its
    first entity as far as needed, then its end.
    """

    name: str = "relation-extraction"
    default_metric: tuple[str, bool] = ("relation_f1", True)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        pool: Literal["first", "last"],
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task; see ``TextClassification``.

        Raises:
            RecipeError: when labels, options and tokenizer do not fit together, or no label
                has a direction.
        """
        self.texts = TextClassification(
            tokenizer, labels, options, pool=pool, label_counts=label_counts
        )
        self.tokenizer = tokenizer
        self.options = options
        self.labels = self.texts.labels
        if not any(DIRECTED.fullmatch(label) for label in self.labels):
            raise RecipeError(
                f"no label has a direction, such as {self.labels[0]}(e1,e2)",
                place="data.fields.label",
                hint="Use text-classification for labels without one",
            )
        first, second = (self._read(sign) for sign in MARKERS.values())
        if first == second:
            raise RecipeError(
                f"the tokenizer can't tell {' from '.join(MARKERS.values())}, the signs around "
                "entities",
                place="backbone.name",
            )

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode one example; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        marked = {**example, "text": self.marked(example, number)}
        return self.texts.encode(marked, number, train=train)

    def marked(self, example: Example, number: int) -> str:
        """Return an example's text as the backbone reads it, with signs around its entities.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        return self._fitted(*entities_of(example, number))

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.texts.loss(head, hidden, batch)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples, or the summed weight of their classes."""
        return self.texts.weight(batch)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` an example, float32 on the CPU."""
        return self.texts.decode(head, hidden, batch)

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score as the official scorer of SemEval-2010 task 8 does; see ``relation_scores``.

        Metrics: ``relation_f1``, ``relation_precision`` and ``relation_recall``, each the
        mean over relations of both directions; ``accuracy`` over the labels themselves.

        Raises:
            DataError: when there are no examples, or an example has no known label.
        """
        if not examples:
            raise DataError("there are no examples to score")
        index = self.texts.index
        expected = [
            self.labels[index.index(required(example, "label", number), number, "label")]
            for number, example in enumerate(examples, start=1)
        ]
        found = [self.labels[int(scores.argmax())] for scores in decoded]
        metrics, table = relation_scores(expected, found)
        accuracy = float(accuracy_score(expected, found))
        return Evaluation(metrics={**metrics, "accuracy": accuracy}, table=table)

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores", "relation", "arguments"}``.

        The arguments are the two entities in the order of the relation, as
        ``{"entity", "text", "start", "end"}`` with offsets in the text without tags; there are
        none where the label has no direction.
        """
        answer = self.texts.prediction(example, decoded)
        text, entities = entities_of(example, 1)
        match = DIRECTED.fullmatch(answer["label"])
        order = match.group("first", "second") if match else ()
        by_name = {entity.name: entity for entity in entities}
        return {
            **answer,
            "relation": relation_of(answer["label"]),
            "arguments": [_argument(by_name[name], text) for name in order],
        }

    def _fitted(self, text: str, entities: Sequence[Entity]) -> str:
        """Return the text with its markers, without its start as far as that is too long."""
        marked = _marked(text, entities)
        excess = len(self._read(marked)) - self.options.max_length
        first = min(entity.start for entity in entities)
        if excess <= 0 or not first:
            return marked
        lead = self.tokenizer(
            text[:first], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        # one token more: the first one that stays may be read otherwise without what is before
        cut = lead[excess + 1][0] if excess + 1 < len(lead) else first
        return marked[cut:]

    def _read(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids


def entities_of(example: Example, number: int) -> tuple[str, list[Entity]]:
    """Return an example's text without tags, and its two entities in the order of the text.

    Raises:
        DataError: naming example and field, unless the text has each of the tags ``<e1>`` and
            ``<e2>`` once, with something in them.
    """
    tagged = text_field(example, "text", number)
    found: list[Entity] = []
    pieces: list[str] = []
    end = length = 0
    for match in _TAGGED.finditer(tagged):
        before, inside = tagged[end : match.start()], match.group(2)
        pieces += [before, inside]
        length += len(before)
        found.append(Entity(match.group(1), length, length + len(inside)))
        length += len(inside)
        end = match.end()
    text = "".join([*pieces, tagged[end:]])
    names = sorted(entity.name for entity in found)
    blank = any(not text[entity.start : entity.end].strip() for entity in found)
    if names != ["e1", "e2"] or blank:
        raise DataError(
            "the text must mark two entities, as in <e1>fire</e1> makes <e2>smoke</e2>",
            place=place_of(number, "text"),
        )
    return text, found


def _marked(text: str, entities: Sequence[Entity]) -> str:
    pieces: list[str] = []
    end = 0
    for entity in entities:
        sign = MARKERS[entity.name]
        inside = text[entity.start : entity.end].strip()
        pieces += [text[end : entity.start], f"{sign} {inside} {sign}"]
        end = entity.end
    return "".join([*pieces, text[end:]])


def _argument(entity: Entity, text: str) -> dict[str, Any]:
    return {
        "entity": entity.name,
        "text": text[entity.start : entity.end],
        "start": entity.start,
        "end": entity.end,
    }
