"""Task routes: ``/v1/classify``, ``/v1/tag``, ``/v1/answer``, ``/v1/generate``, ``/v1/rerank``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from contextlib import aclosing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import JSONResponse, Response

from adapterhub.data.audio import AudioFile
from adapterhub.data.images import ImageFile
from adapterhub.data.media import MediaFile
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import DataError, RequestError
from adapterhub.server.context import CallDep, authenticated_router
from adapterhub.server.generation import (
    GenerationJob,
    generate_deltas,
    map_concurrently,
    max_tokens_for,
)
from adapterhub.server.responses import FINGERPRINT_HEADER, digest_header, provenance, usage
from adapterhub.server.routes.completions import embed_texts, text_tokens
from adapterhub.server.schemas.tasks import (
    AnswerRequest,
    AnswerResponse,
    AudioInput,
    ClassifyRequest,
    ClassifyResponse,
    GenerateRequest,
    GenerateResponse,
    ImageInput,
    PairText,
    QuestionInput,
    RerankRequest,
    RerankResponse,
    TagRequest,
    TagResponse,
)
from adapterhub.server.tokenization import check_size, tokenize
from adapterhub.tasks.table import reads_pairs, served_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from adapterhub.engine.heads import LabelingKind
    from adapterhub.server.context import Call
    from adapterhub.server.models import ResolvedModel
    from adapterhub.server.schemas.tasks import TaskRequest
    from adapterhub.tasks.base import TextGeneration

router = authenticated_router("tasks")
#: Label whose probability ranks a document; the last label of heads without it.
RELEVANT = "relevant"
_RANK_HINT = "Use /v1/rerank: the history is the query, the candidates are the documents"
#: Most pixels of an image, since it is decoded between two steps of the engine.
MAX_SERVED_PIXELS = 2**24
#: Cost of an image in tokens: those of a ViT that reads 224 pixels in patches of 14.
IMAGE_COST = 256
#: Cost of a recording in tokens: those of half a minute at fifty a second.
AUDIO_COST = 1500
_DATA_URL = re.compile(r"data:(image|audio)/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_IMAGE_FIELD, _AUDIO_FIELD = "input.image", "input.audio"


class TaskItem(NamedTuple):
    """One input of a request."""

    model: ResolvedModel
    example: dict[str, Any]

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Digests and weights for the engine."""
        if self.model.adapters is None:
            raise RequestError(
                "the base model has no head",
                place="model",
                hint="Name an adapter that was trained for the task",
            )
        return self.model.adapters

    @property
    def cost(self) -> int:
        """Estimated number of tokens."""
        return sum(_cost_of(value) for value in self.example.values()) + 1


@router.post(
    "/v1/classify", response_model=ClassifyResponse, summary="Classify texts, images or audio"
)
async def classify(call: CallDep, body: ClassifyRequest) -> Response:
    """Return the label of each text, image or recording, with the probability of every label."""
    return await _respond(call, body, lambda item: _classify(call, item))


@router.post("/v1/tag", response_model=TagResponse, summary="Find spans in texts")
async def tag(call: CallDep, body: TagRequest) -> Response:
    """Return the labelled spans of each text."""
    return await _respond(call, body, lambda item: _label(call, item, "token"))


@router.post("/v1/answer", response_model=AnswerResponse, summary="Find answers in contexts")
async def answer(call: CallDep, body: AnswerRequest) -> Response:
    """Return the part of each context that answers its question."""

    async def answer_one(item: TaskItem) -> dict[str, Any]:
        found = await _label(call, item, "span")
        empty = {} if found["answer"] else {"answer": None, "start": None, "end": None}
        return {**found, **empty}

    return await _respond(call, body, answer_one)


@router.post(
    "/v1/generate",
    response_model=GenerateResponse,
    summary="Generate texts by the instruction of a task",
)
async def generate(call: CallDep, body: GenerateRequest) -> Response:
    """Translate, summarize or answer, greedily and with the prompt of the training."""

    async def generate_one(item: TaskItem) -> dict[str, Any]:
        loaded, limit = item.model.loaded, item.model.loaded.context_length
        fields = item.example.items()
        size = sum(check_size(loaded, text, limit, f"input.{name}") for name, text in fields)
        task = await asyncio.to_thread(loaded.tasks.task, item.model.parts)
        tokens = await tokenize(
            call, item.model, size, lambda: tuple(loaded.tasks.prompt(task, item.example))
        )
        job = _prepare(item, task, tokens, body.max_tokens)
        return await _generate(call, task, job)

    # the generation records the use of the model itself
    return await _respond(call, body, generate_one, record=False)


@router.post("/v1/rerank", response_model=RerankResponse, summary="Sort documents by relevance")
async def rerank(call: CallDep, body: RerankRequest) -> Response:
    """Sort documents by an adapter that ranks or classifies pairs, or else by embeddings."""
    started = time.perf_counter()
    model = await call.open(body.model)
    scores = await _relevance(call, body, model)
    seconds = time.perf_counter() - started
    call.server.metrics.record_model_use(model, 0, 0, seconds)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    content = {
        "object": "list",
        "model": model.name,
        "results": [
            {
                "index": index,
                "relevance_score": scores[index],
                "document": (
                    None if body.return_documents is False else {"text": body.documents[index]}
                ),
            }
            for index in order
        ],
        "adapterhub": provenance(model),
    }
    return JSONResponse(content, headers=digest_header([model]))


async def _respond(
    call: Call,
    body: TaskRequest,
    process: Callable[[TaskItem], Awaitable[dict[str, Any]]],
    *,
    record: bool = True,
) -> Response:
    """Process all inputs of a request, so that they share batches."""
    items = await asyncio.to_thread(_items, call, body)
    for served in dict.fromkeys(item.model.served for item in items):
        await call.hold(served)
    started = time.perf_counter()
    results = await map_concurrently(process, items)
    seconds = time.perf_counter() - started
    data = []
    for index, (item, result) in enumerate(zip(items, results, strict=True)):
        model = item.model
        if record:
            call.server.metrics.record_model_use(model, 0, 0, seconds)
        data.append({"index": index, "model": model.name, "digest": model.digests, **result})
    headers = digest_header(item.model for item in items)
    fingerprint = headers[FINGERPRINT_HEADER]
    content = {"object": "list", "data": data, "backbone_fingerprint": fingerprint}
    return JSONResponse(content, headers=headers)


def _items(call: Call, body: TaskRequest) -> list[TaskItem]:
    """Resolve the model of each input; called on a thread."""
    resolve = lru_cache(None)(call.resolve)
    return [TaskItem(resolve(name), _example(given)) for name, given in body.pairs()]


def _example(
    given: str | dict[str, str] | PairText | QuestionInput | ImageInput | AudioInput,
) -> dict[str, Any]:
    if isinstance(given, ImageInput):
        return {"image": decode_image(given.image)}
    if isinstance(given, AudioInput):
        return {"audio": decode_audio(given.audio)}
    if isinstance(given, PairText | QuestionInput):
        return given.model_dump(exclude_none=True)
    return {"text": given} if isinstance(given, str) else dict(given)


def decode_image(url: str) -> ImageFile:
    """Return the image in a ``data:`` URL; other URLs are not fetched."""
    image = ImageFile(_IMAGE_FIELD, _decode(url, "image", "an image", _IMAGE_FIELD))
    try:
        image.check_header(MAX_SERVED_PIXELS)
    except DataError as error:
        raise RequestError(error.problem, place=_IMAGE_FIELD, hint=error.hint) from error
    return image


def decode_audio(url: str) -> AudioFile:
    """Return the recording in a ``data:`` URL; other URLs are not fetched."""
    recording = AudioFile(_AUDIO_FIELD, _decode(url, "audio", "a recording", _AUDIO_FIELD))
    try:
        recording.seconds()
    except DataError as error:
        raise RequestError(error.problem, place=_AUDIO_FIELD, hint=error.hint) from error
    return recording


def _decode(url: str, kind: str, noun: str, place: str) -> bytes:
    start = _DATA_URL.match(url)
    if start is None or start[1].lower() != kind:
        example = {"image": "data:image/png", "audio": "data:audio/wav"}[kind]
        raise RequestError(
            f"is not a data: URL of {noun}",
            place=place,
            hint=f"Give {example};base64, and the file in base64; nothing is fetched",
        )
    try:
        return base64.b64decode(url[start.end() :], validate=True)
    except binascii.Error as error:
        raise RequestError(f"is not base64: {error}", place=place) from error


def _cost_of(value: str | list[str] | MediaFile) -> int:
    if isinstance(value, MediaFile):
        return IMAGE_COST if isinstance(value, ImageFile) else AUDIO_COST
    return sum(len(part) for part in value) // 4


def _ranks(model: ResolvedModel) -> bool:
    return any(served_by(part.task, "rerank") for part in model.parts)


async def _classify(call: Call, item: TaskItem) -> dict[str, Any]:
    """Return the labels of one input; for a multi-label task, the most likely one is the label."""
    if _ranks(item.model):
        raise RequestError("ranks candidates and has no labels", place="model", hint=_RANK_HINT)
    found = await _label(call, item)
    if "labels" not in found:
        return found
    best = next(iter(found["labels"]), None)
    return {"label": best, "score": None if best is None else found["scores"][best], **found}


async def _label(call: Call, item: TaskItem, kind: LabelingKind = "sequence") -> dict[str, Any]:
    async with call.admit(item.model, item.cost):
        return await item.model.loaded.engine.label(item.example, item.adapters, kind=kind)


def _prepare(
    item: TaskItem,
    task: TextGeneration,
    tokens: tuple[int, ...],
    max_tokens: int | None,
) -> GenerationJob:
    loaded = item.model.loaded
    room = max_tokens_for(loaded, len(tokens), max_tokens)
    params = SamplingParams(
        temperature=0,
        max_tokens=max_tokens or min(room, task.options.max_new_tokens),
        stop=task.stop_strings,
        stop_token_ids=tuple(sorted(task.stop_ids)),
        num_beams=task.options.num_beams,
    )
    prepared = loaded.engine.prompt_processor.prepare(tokens, params, task.target_frame)
    return GenerationJob(item.model, (prepared,), 1)


async def _generate(call: Call, task: TextGeneration, job: GenerationJob) -> dict[str, Any]:
    tokens: list[int] = []
    generated, reason = 0, "stop"
    async with aclosing(generate_deltas(call, job)) as deltas:
        async for delta in deltas:
            generated += delta.generated
            reason = delta.finish_reason or reason
            if delta.token is not None:
                tokens.append(delta.token)
    return {
        "text": task.text_of(tokens),
        "finish_reason": reason,
        "usage": usage(job.prompt_tokens, generated),
    }


async def _relevance(call: Call, body: RerankRequest, model: ResolvedModel) -> list[float]:
    """Return the relevance of each document."""
    if _ranks(model):
        return await _relevance_by_history(call, body, model)
    if isinstance(body.query, list):
        raise RequestError(
            "several texts are a history, which only adapters for ranking read",
            place="query",
            hint="Give one text",
        )
    if any(reads_pairs(part.task) for part in model.parts):
        return await _relevance_by_label(call, body, model)
    return await _relevance_by_embedding(call, body, model)


async def _relevance_by_history(
    call: Call, body: RerankRequest, model: ResolvedModel
) -> list[float]:
    """Return how likely each document is relevant to the user whose history the query is."""

    async def score(document: str) -> float:
        item = TaskItem(model, {"history": body.query, "candidate": document})
        return float((await _label(call, item))["score"])

    return await map_concurrently(score, body.documents)


async def _relevance_by_label(call: Call, body: RerankRequest, model: ResolvedModel) -> list[float]:
    labels = next(part.labels for part in model.parts if reads_pairs(part.task))
    label = RELEVANT if RELEVANT in labels else labels[-1]

    async def score(document: str) -> float:
        item = TaskItem(model, {"text": body.query, "text_pair": document})
        return float((await _classify(call, item))["scores"][label])

    return await map_concurrently(score, body.documents)


async def _relevance_by_embedding(
    call: Call, body: RerankRequest, model: ResolvedModel
) -> list[float]:
    texts = await text_tokens(call, model, [str(body.query)], "query")
    texts += await text_tokens(call, model, body.documents, "documents")
    query, *documents = await embed_texts(call, model, texts, pooling="mean", normalize=True)
    return [float(query @ document) for document in documents]
