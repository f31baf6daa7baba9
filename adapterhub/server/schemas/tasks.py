"""Requests and responses of the task routes: classify, tag, answer, generate and rerank."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from adapterhub.server.schemas.base import (
    FinishReason,
    ModelName,
    Provenance,
    RequestModel,
    ResponseModel,
    Usage,
)
from adapterhub.server.schemas.openai import MAX_PROMPTS, MAX_TEXTS

#: Longest text, in characters.
MAX_TEXT = 262_144
_HISTORY = "Several texts are a history, the newest last, for an adapter that ranks."

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
#: Text that may be empty.
AnyText = Annotated[str, Field(max_length=MAX_TEXT)]
#: Fields of a task's example, such as source, document, or question and context.
ExampleFields = Annotated[dict[str, AnyText], Field(min_length=1, max_length=16)]
ItemT = TypeVar("ItemT")


class PairText(RequestModel):
    """Text with a second text, such as a hypothesis beside its premise."""

    text: Text
    text_pair: AnyText | None = None


class ImageInput(RequestModel):
    """Image as a ``data:image/png;base64,`` URL."""

    image: Annotated[str, Field(min_length=1)]


class AudioInput(RequestModel):
    """Recording as a ``data:audio/wav;base64,`` URL."""

    audio: Annotated[str, Field(min_length=1)]


class QuestionInput(RequestModel):
    """Question, and the text that contains its answer."""

    question: Text
    context: Text


class TaskRequest(RequestModel):
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


class TagItem(RequestModel):
    """Text with a model of its own."""

    model: ModelName
    input: Text | PairText


class TagRequest(TaskRequest):
    """Texts in which to find spans."""

    input: (
        Text
        | PairText
        | Annotated[list[Text | PairText], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[TagItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class ClassifyItem(RequestModel):
    """Text, image or recording with a model of its own."""

    model: ModelName
    input: Text | PairText | ImageInput | AudioInput


class ClassifyRequest(TaskRequest):
    """Texts, images or recordings to classify."""

    input: (
        Text
        | PairText
        | ImageInput
        | AudioInput
        | Annotated[
            list[Text | PairText | ImageInput | AudioInput],
            Field(min_length=1, max_length=MAX_TEXTS),
        ]
    ) | None = None
    items: Annotated[list[ClassifyItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class AnswerItem(RequestModel):
    """Question with a model of its own."""

    model: ModelName
    input: QuestionInput


class AnswerRequest(TaskRequest):
    """Questions to answer from their contexts."""

    input: (
        QuestionInput | Annotated[list[QuestionInput], Field(min_length=1, max_length=MAX_TEXTS)]
    ) | None = None
    items: Annotated[list[AnswerItem], Field(min_length=1, max_length=MAX_TEXTS)] | None = None


class GenerateItem(RequestModel):
    """Fields of an example with a model of its own."""

    model: ModelName
    input: Text | ExampleFields


class GenerateRequest(TaskRequest):
    """Examples for adapters that were trained with an instruction, which is added to them."""

    input: (
        Text
        | ExampleFields
        | Annotated[list[Text | ExampleFields], Field(min_length=1, max_length=MAX_PROMPTS)]
    ) | None = None
    items: Annotated[list[GenerateItem], Field(min_length=1, max_length=MAX_PROMPTS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class RerankRequest(RequestModel):
    """Documents to sort by their relevance to a query."""

    model: ModelName
    query: (
        Text
        | Annotated[list[AnyText], Field(min_length=1, max_length=MAX_TEXTS, description=_HISTORY)]
    )
    documents: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


class TaskResult(ResponseModel):
    """Result for one input."""

    index: int
    model: str
    digest: str


class TaskResponse(ResponseModel, Generic[ItemT]):
    """Results for all inputs of a request."""

    object: Literal["list"]
    data: list[ItemT]
    backbone_fingerprint: str


class RelationArgument(ResponseModel):
    """Entity of a relation; offsets refer to the text without tags."""

    entity: str
    text: str
    start: int
    end: int


class Classification(TaskResult):
    """Label of one input; ``null`` if a multi-label adapter assigns none."""

    label: str | None
    score: float | None
    scores: dict[str, float]
    #: of a multi-label adapter
    labels: list[str] | None = None
    #: of an adapter for relation extraction
    relation: str | None = None
    arguments: list[RelationArgument] | None = None


class ClassifyResponse(TaskResponse[Classification]):
    """Labels of all inputs."""


class TaggedSpan(ResponseModel):
    """Part of a text, from character ``start`` up to ``end``."""

    label: str
    start: int
    end: int
    text: str
    score: float


class Tagging(TaskResult):
    """Spans of one text."""

    spans: list[TaggedSpan]


class TagResponse(TaskResponse[Tagging]):
    """Spans of all texts."""


class ExtractedAnswer(TaskResult):
    """Answer to one question; ``null`` if having no answer is more likely."""

    answer: str | None
    start: int | None
    end: int | None
    score: float
    no_answer: float


class AnswerResponse(TaskResponse[ExtractedAnswer]):
    """Answers to all questions."""


class GeneratedText(TaskResult):
    """Text generated for one example."""

    text: str
    finish_reason: FinishReason
    usage: Usage


class GenerateResponse(TaskResponse[GeneratedText]):
    """Texts for all examples."""


class RankedText(ResponseModel):
    """Document."""

    text: str


class RankedDocument(ResponseModel):
    """Document with its relevance to the query."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankResponse(ResponseModel):
    """Documents, the most relevant first."""

    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    adapterhub: Provenance
