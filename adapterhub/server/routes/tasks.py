"""``/v1/classify``, ``/v1/tag``, ``/v1/answer`` and ``/v1/rerank``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from adapterhub.errors import RequestError
from adapterhub.server.describing import headers_of, provenance
from adapterhub.server.fanning import for_each
from adapterhub.server.picture_urls import picture_of
from adapterhub.server.routes.asked import Asked, answer_each, asked_rows, find_model
from adapterhub.server.routes.embeddings import embed_texts, tokens_of
from adapterhub.server.schemas.tasks import PictureInput

if TYPE_CHECKING:
    from starlette.responses import Response

    from adapterhub.server.context import Call
    from adapterhub.server.models import Model
    from adapterhub.server.schemas.tasks import (
        AnswerRequest,
        ClassifyRequest,
        PairText,
        RerankRequest,
        TaskRequest,
    )

#: Label whose probability ranks a document; the last one where a head has none of this name.
RELEVANT = "relevant"
CLASSIFIES = "text-classification"
RANKS = "ranking"
_RANK_HINT = "Use /v1/rerank: the history is the query, the candidates are the documents"


async def classify(call: Call, body: ClassifyRequest) -> Response:
    """Label texts or pictures."""
    asked = await asyncio.to_thread(asked_rows, call, body, _row)
    return await answer_each(call, asked, lambda one: _label(call, one))


async def tag(call: Call, body: TaskRequest) -> Response:
    """Find spans in texts."""
    asked = await asyncio.to_thread(asked_rows, call, body, _row)

    async def spans(one: Asked) -> dict[str, Any]:
        async with call.server.access.admit(call.caller, one.model.label, one.cost):
            return await call.server.engine.tag(one.row, one.adapters)

    return await answer_each(call, asked, spans)


async def answer(call: Call, body: AnswerRequest) -> Response:
    """Find answers to questions in their contexts."""
    asked = await asyncio.to_thread(asked_rows, call, body, lambda row: row.model_dump())

    async def found(one: Asked) -> dict[str, Any]:
        async with call.server.access.admit(call.caller, one.model.label, one.cost):
            told = await call.server.engine.answer(one.row, one.adapters)
        # an answer has a word at least
        none = {} if told["answer"] else {"answer": None, "start": None, "end": None}
        return {**told, **none}

    return await answer_each(call, asked, found)


async def rerank(call: Call, body: RerankRequest) -> Response:
    """Order documents: by the head of an adapter that ranks or compares, else by embeddings."""
    began = time.perf_counter()
    model = await asyncio.to_thread(find_model, call, body.model)
    tasks = {part.task for part in model.parts}
    if RANKS in tasks:
        scores = await _by_history(call, body, model)
    elif isinstance(body.query, list):
        raise RequestError(
            "several texts are a history, which only adapters for ranking read",
            place="query",
            hint="Give one text",
        )
    elif CLASSIFIES in tasks:
        scores = await _by_head(call, body, model)
    else:
        scores = await _by_embedding(call, body, model)
    call.server.metrics.used(model.names, 0, 0, time.perf_counter() - began)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {
            "index": index,
            "relevance_score": scores[index],
            "document": {"text": body.documents[index]},
        }
        for index in order
    ]
    if body.return_documents is False:
        results = [{**each, "document": None} for each in results]
    answer = {
        "object": "list",
        "model": model.text,
        "results": results,
        "adapterhub": provenance(call.server, model),
    }
    return JSONResponse(answer, headers=headers_of([model]))


async def _label(call: Call, one: Asked) -> dict[str, Any]:
    """Return the labels of one text; of several at once, the likeliest is the label."""
    if any(part.task == RANKS for part in one.model.parts):
        raise RequestError("ranks candidates and has no labels", place="model", hint=_RANK_HINT)
    async with call.server.access.admit(call.caller, one.model.label, one.cost):
        told = await call.server.engine.classify(one.row, one.adapters)
    if "labels" not in told:
        return told
    best = next(iter(told["labels"]), None)
    return {"label": best, "score": None if best is None else told["scores"][best], **told}


def _row(text: str | PairText | PictureInput) -> dict[str, Any]:
    if isinstance(text, PictureInput):
        return {"image": picture_of(text.image)}
    return {"text": text} if isinstance(text, str) else text.model_dump(exclude_none=True)


async def _by_head(call: Call, body: RerankRequest, model: Model) -> list[float]:
    labels = next(part.labels for part in model.parts if part.task == CLASSIFIES)
    label = RELEVANT if RELEVANT in labels else labels[-1]

    async def score(document: str) -> float:
        row = {"text": body.query, "text_pair": document}
        answer = await _label(call, Asked(model, row))
        return float(answer["scores"][label])

    return await for_each(body.documents, score)


async def _by_history(call: Call, body: RerankRequest, model: Model) -> list[float]:
    """Return how likely each document pleases whose history the query is."""

    async def score(document: str) -> float:
        one = Asked(model, {"history": body.query, "candidate": document})
        async with call.server.access.admit(call.caller, model.label, one.cost):
            answer = await call.server.engine.classify(one.row, one.adapters)
        return float(answer["score"])

    return await for_each(body.documents, score)


async def _by_embedding(call: Call, body: RerankRequest, model: Model) -> list[float]:
    texts = await asyncio.to_thread(
        lambda: [
            tokens_of(call.server, text, place)
            for text, place in [
                (str(body.query), "query"),
                *((d, "documents") for d in body.documents),
            ]
        ]
    )
    query, *documents = await embed_texts(call, model, texts, pooling="mean", normalize=True)
    return [float(query @ document) for document in documents]
