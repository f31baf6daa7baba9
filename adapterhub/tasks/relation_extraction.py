"""Relation extraction: the directed relation between two marked entities of a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import AuditSpec, Evaluation
from adapterhub.tasks.classification import SingleLabelTask, predicted_labels, require_any
from adapterhub.tasks.fields import place_of, text_field
from adapterhub.tasks.text_classification import LabelAttribution, TextEncoder, check_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import HeadKind, Pool
    from adapterhub.tasks.fields import Example

_TAGGED = re.compile(r"<(e[12])>(.*?)</\1>", re.DOTALL)
#: Signs around each entity in the encoded text. Every tokenizer knows them, so they need no new
#: embeddings, which a frozen backbone could not learn.
#: Source: Zhou and Chen 2022, arXiv:2102.01373, "entity marker (punct)".
MARKERS = {"e1": "@", "e2": "#"}


#: Label of a relation with its direction, e.g. ``Cause-Effect(e2,e1)``.
DIRECTED = re.compile(r"(?P<relation>.+)\((?P<first>e[12]),(?P<second>(?!(?P=first))e[12])\)")


@dataclass(frozen=True, slots=True)
class Entity:
    """Entity ``e1`` or ``e2`` with its offsets in the text without tags; either may come first."""

    name: str
    start: int
    end: int


class RelationExtraction(SingleLabelTask):
    """Examples have ``text`` with ``<e1>…</e1>`` and ``<e2>…</e2>`` in it, and ``label``.

    A label is a relation with its direction, such as ``Cause-Effect(e2,e1)``, or one without
    (``Other``), which means that none of the relations holds. A text longer than ``max_length``
    loses its start, up to its first entity, as far as needed, and then its end.
    """

    name: str = "relation-extraction"
    pipeline_tag: str = "text-classification"
    peft_task_type: str = "SEQ_CLS"
    head: HeadKind = "sequence"
    default_metric: tuple[str, bool] = ("relation_f1", True)
    audit: AuditSpec | None = AuditSpec("labels", "another label", plain_texts=False)

    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        self.texts = TextEncoder(preprocessor, self.options, pool)
        self.tokenizer = preprocessor
        if not any(DIRECTED.fullmatch(label) for label in self.labels):
            raise RecipeError(
                f"no label has a direction, such as {self.labels[0]}(e1,e2)",
                place="data.fields.label",
                hint="Use text-classification for labels without one",
            )
        first, second = (self._ids(sign) for sign in MARKERS.values())
        if first == second:
            raise RecipeError(
                f"the tokenizer maps {' and '.join(MARKERS.values())}, the signs around entities, "
                "to the same tokens",
                place="backbone.name",
            )

    @property
    def attribution(self) -> LabelAttribution:
        """Attribution of the relation to the words of the text."""
        return LabelAttribution(
            self.name,
            self.texts,
            self.labels,
            self.outcome,
            partial(check_label, self.classes),
            as_texts=lambda example: self._as_text(example, 1),
        )

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Encode an example; see ``Task.encode``."""
        targets = self.classes.targets(example, number, train=train)
        return self.texts.encode(self._as_text(example, number), number, targets)

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score as the official scorer of SemEval-2010 task 8; see ``relation_scores``.

        Metrics: ``relation_f1``, ``relation_precision`` and ``relation_recall``, each the
        mean over relations of both directions; ``accuracy`` over the labels themselves.
        """
        from sklearn.metrics import accuracy_score

        require_any(examples)
        expected = [self.labels[index] for index in self.classes.all_gold(examples)]
        found = [self.labels[index] for index in predicted_labels(decoded)]
        metrics, table = relation_scores(expected, found)
        accuracy = float(accuracy_score(expected, found))
        return Evaluation(metrics={**metrics, "accuracy": accuracy}, table=table)

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores", "relation", "arguments"}``.

        The arguments are the two entities in the order of the relation, as
        ``{"entity", "text", "start", "end"}`` with offsets in the text without tags; empty
        where the label has no direction.
        """
        answer = super().prediction(example, decoded)
        text, entities = entities_of(example, 1)
        match = DIRECTED.fullmatch(answer["label"])
        order = match.group("first", "second") if match else ()
        by_name = {entity.name: entity for entity in entities}
        return {
            **answer,
            "relation": relation_of(answer["label"]),
            "arguments": [_argument(by_name[name], text) for name in order],
        }

    def statistics(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: resamples are evaluated."""

    def _as_text(self, example: Example, number: int) -> dict[str, str]:
        """Return an example as text with signs around its entities."""
        return {"text": self._fitted(*entities_of(example, number))}

    def _fitted(self, text: str, entities: Sequence[Entity]) -> str:
        """Return the marked text, truncated at its start where it is too long."""
        marked = _marked(text, entities)
        excess = len(self._ids(marked)) - self.options.max_length
        first = min(entity.start for entity in entities)
        if excess <= 0 or not first:
            return marked
        lead = self.tokenizer(
            text[:first], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        # one token more: the first remaining one may be tokenized differently without its left side
        cut = lead[excess + 1][0] if excess + 1 < len(lead) else first
        return marked[cut:]

    def _ids(self, text: str) -> list[int]:
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
    parts: list[str] = []
    end = length = 0
    for match in _TAGGED.finditer(tagged):
        before, inside = tagged[end : match.start()], match.group(2)
        parts += [before, inside]
        length += len(before)
        found.append(Entity(match.group(1), length, length + len(inside)))
        length += len(inside)
        end = match.end()
    text = "".join([*parts, tagged[end:]])
    names = sorted(entity.name for entity in found)
    blank = any(not text[entity.start : entity.end].strip() for entity in found)
    if names != ["e1", "e2"] or blank:
        raise DataError(
            "the text must mark two entities, as in <e1>fire</e1> makes <e2>smoke</e2>",
            place=place_of(number, "text"),
        )
    return text, found


def _marked(text: str, entities: Sequence[Entity]) -> str:
    parts: list[str] = []
    end = 0
    for entity in entities:
        sign = MARKERS[entity.name]
        inside = text[entity.start : entity.end].strip()
        parts += [text[end : entity.start], f"{sign} {inside} {sign}"]
        end = entity.end
    return "".join([*parts, text[end:]])


def _argument(entity: Entity, text: str) -> dict[str, Any]:
    return {
        "entity": entity.name,
        "text": text[entity.start : entity.end],
        "start": entity.start,
        "end": entity.end,
    }


def relation_scores(
    expected: Sequence[str], found: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, float | str]]]:
    """Return macro-averaged scores over relations, and a record per relation.

    The two directions of a relation count as one class, in which the wrong direction is an
    error of both precision and recall. Labels without a direction (``Other``) are left out of
    the means, but predicting a relation in their place lowers its precision. The means are over
    the relations in ``expected``.

    Source: ``semeval2010_task8_scorer-v1.2.pl``, "(9+1)-way evaluation taking directionality
    into account", which its README calls official; Hendrickx et al. 2010.

    Returns:
        ``relation_f1``, ``relation_precision``, ``relation_recall``; and records of
        ``label``, ``precision``, ``recall``, ``f1`` and ``support``.
    """
    table: list[dict[str, float | str]] = []
    for relation in sorted({relation_of(label) for label in expected if DIRECTED.fullmatch(label)}):
        support = sum(relation_of(label) == relation for label in expected)
        answered = sum(relation_of(label) == relation for label in found)
        right = sum(
            wanted == label and relation_of(label) == relation
            for wanted, label in zip(expected, found, strict=True)
        )
        precision = right / answered if answered else 0.0
        recall = right / support
        total = precision + recall
        table.append(
            {
                "label": relation,
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / total if total else 0.0,
                "support": float(support),
            }
        )
    metrics = {f"relation_{name}": _mean(table, name) for name in ("f1", "precision", "recall")}
    return metrics, table


def relation_of(label: str) -> str:
    """Return a label without its direction."""
    match = DIRECTED.fullmatch(label)
    return match["relation"] if match else label


def _mean(table: Sequence[dict[str, float | str]], name: str) -> float:
    values = [float(record[name]) for record in table]
    return sum(values) / len(values) if values else 0.0
