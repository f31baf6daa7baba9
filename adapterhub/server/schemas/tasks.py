"""Labels of texts, spans in them, answers to questions, and the order of documents."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from adapterhub.server.schemas.base import Answer, Body, Finish, ModelName, Provenance, Usage
from adapterhub.server.schemas.completion import MAX_PROMPTS, MAX_TEXTS

#: Longest context that an answer is looked for in, in characters.
MAX_CONTEXT = 262_144
_HISTORY = "A history, the newest last, for an adapter that ranks."

Text = Annotated[str, Field(min_length=1)]
#: Of a task, such as source, document, or question and context.
RowFields = Annotated[dict[str, str], Field(min_length=1, max_length=16)]


class PairText(Body):
    """A text, and a second one that is read beside it."""

    text: Text
    text_pair: str | None = None


class PictureInput(Body):
    """A picture, as a ``data:image/png;base64,`` address."""

    image: Text


class TaskItem(Body):
    """A text with a model of its own."""

    model: ModelName
    input: Text | PairText


class ClassifyItem(Body):
    """A text or a picture with a model of its own."""

    model: ModelName
    input: Text | PairText | PictureInput


class Rows(Body):
    """Inputs of a task: for one model, or each with its own."""

    model: ModelName | None = None
    input: Any = None
    items: Any = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        both = self.model is not None and self.input is not None
        if both == (self.items is not None) or (self.model is None) != (self.input is None):
            raise ValueError("takes model and input, or items")
        return self

    def pairs(self) -> list[tuple[str, Any]]:
        """Return each input with the name of its model."""
        if self.items is not None:
            return [(item.model, item.input) for item in self.items]
        inputs = self.input if isinstance(self.input, list) else [self.input]
        return [(self.model or "", each) for each in inputs]


class TaskRequest(Rows):
    """Texts to find spans in: by one model, or each by its own."""

    input: (
        Text
        | PairText
        | Annotated[list[Text | PairText], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[TaskItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class ClassifyRequest(Rows):
    """Texts or pictures to be labelled: by one model, or each by its own."""

    input: (
        Text
        | PairText
        | PictureInput
        | Annotated[list[Text | PairText | PictureInput], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[ClassifyItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class QuestionInput(Body):
    """A question, and the text that its answer is looked for in."""

    question: Text
    context: Annotated[str, Field(min_length=1, max_length=MAX_CONTEXT)]


class AnswerItem(Body):
    """A question with a model of its own."""

    model: ModelName
    input: QuestionInput


class AnswerRequest(Rows):
    """Questions to be answered: by one model, or each by its own."""

    input: (
        QuestionInput | Annotated[list[QuestionInput], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[AnswerItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class GenerateItem(Body):
    """The fields of a row with a model of its own."""

    model: ModelName
    input: Text | RowFields


class GenerateRequest(Rows):
    """Rows for adapters that were trained with an instruction, which is put before them."""

    input: (
        Text
        | RowFields
        | Annotated[list[Text | RowFields], Field(min_length=1, max_length=MAX_PROMPTS)]
    ) | None = None
    items: Annotated[list[GenerateItem], Field(min_length=1, max_length=MAX_PROMPTS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Labelled(Answer):
    """What answered one text."""

    index: int
    model: str
    digest: str


class Argument(Answer):
    """One of the two entities of a relation; offsets are of the text without tags."""

    entity: str
    text: str
    start: int
    end: int


class Classified(Labelled):
    """The label of one text; none where it has no label of those that it may have several of."""

    label: str | None
    score: float | None
    scores: dict[str, float]
    #: where a text may have several
    labels: list[str] | None = None
    #: of an adapter for relations
    relation: str | None = None
    arguments: list[Argument] | None = None


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


class Found(Labelled):
    """The answer to one question; none where the adapter may find none, and that is likelier."""

    answer: str | None
    start: int | None
    end: int | None
    score: float
    no_answer: float


class FoundAnswer(Answer):
    """The answers to all questions."""

    object: Literal["list"]
    data: list[Found]
    backbone_fingerprint: str


class Written(Labelled):
    """The text for one row."""

    text: str
    finish_reason: Finish
    usage: Usage


class GenerateAnswer(Answer):
    """The texts for all rows."""

    object: Literal["list"]
    data: list[Written]
    backbone_fingerprint: str


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
    query: (
        Text | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, description=_HISTORY)]
    )
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
