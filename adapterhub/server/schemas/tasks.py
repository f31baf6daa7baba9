"""Labels of texts, spans in them, and the order of documents."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adapterhub.server.schemas.base import Answer, Body, ModelName, Provenance
from adapterhub.server.schemas.completion import MAX_TEXTS

Text = Annotated[str, Field(min_length=1)]


class PairText(Body):
    """A text, and a second one that is read beside it."""

    text: Text
    text_pair: str | None = None


class TaskItem(Body):
    """A text with a model of its own."""

    model: ModelName
    input: Text | PairText


class TaskRequest(Body):
    """Texts to be labelled: by one model, or each by its own."""

    model: ModelName | None = None
    input: (
        Text
        | PairText
        | Annotated[list[Text | PairText], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[TaskItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        both = self.model is not None and self.input is not None
        if both == (self.items is not None) or (self.model is None) != (self.input is None):
            raise ValueError("takes model and input, or items")
        return self


class Labelled(Answer):
    """What answered one text."""

    index: int
    model: str
    digest: str


class Classified(Labelled):
    """The label of one text."""

    label: str
    score: float
    scores: dict[str, float]


class Span(Answer):
    """A part of a text, from character ``start`` to before ``end``."""

    label: str
    start: int
    end: int
    text: str
    score: float


class Tagged(Labelled):
    """The spans of one text."""

    spans: list[Span]


class ClassifyAnswer(Answer):
    """The labels of all texts."""

    object: Literal["list"]
    data: list[Classified]
    backbone_fingerprint: str


class TagAnswer(Answer):
    """The spans of all texts."""

    object: Literal["list"]
    data: list[Tagged]
    backbone_fingerprint: str


class RerankRequest(Body):
    """Documents to be put in the order of what they have to do with a query."""

    model: ModelName
    query: Text
    documents: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


class RankedText(Answer):
    """A document."""

    text: str


class Ranked(Answer):
    """A document and how much it has to do with the query."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankAnswer(Answer):
    """Documents, the most relevant first."""

    object: Literal["list"]
    model: str
    results: list[Ranked]
    adapterhub: Provenance
