"""``/v1/classify``, ``/v1/tag`` and ``/v1/rerank``."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from starlette.responses import JSONResponse

from adapterhub.errors import RequestError
from adapterhub.server.describing import headers_of, provenance
from adapterhub.server.fanning import for_each
from adapterhub.server.routes.embeddings import embed_texts, tokens_of

if TYPE_CHECKING:
    from starlette.responses import Response

    from adapterhub.server.context import Call
    from adapterhub.server.models import Model
    from adapterhub.server.schemas.tasks import PairText, RerankRequest, TaskRequest

#: Label whose probability ranks a document; the last one where a head has none of this name.
RELEVANT = "relevant"
_CLASSIFIES = "text-classification"


class _Asked(NamedTuple):
    """A text on its way to its labels."""

    model: Model
    row: dict[str, Any]


async def classify(call: Call, body: TaskRequest) -> Response:
    """Label texts."""
    return await _answer(call, body, "classify")


async def tag(call: Call, body: TaskRequest) -> Response:
    """Find spans in texts."""
    return await _answer(call, body, "tag")


async def rerank(call: Call, body: RerankRequest) -> Response:
    """Order documents: by the head of an adapter that compares texts, else by embeddings."""
    began = time.perf_counter()
    model = await asyncio.to_thread(_find, call, body.model)
    if any(part.task == _CLASSIFIES for part in model.parts):
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


async def _answer(call: Call, body: TaskRequest, how: Literal["classify", "tag"]) -> Response:
    began = time.perf_counter()
    asked = await asyncio.to_thread(_asked, call, body)
    found = await for_each(asked, lambda one: _label(call, one, how))
    seconds = time.perf_counter() - began
    data = []
    for index, (one, prediction) in enumerate(zip(asked, found, strict=True)):
        call.server.metrics.used(one.model.names, 0, 0, seconds)
        about = {"index": index, "model": one.model.text, "digest": one.model.digests}
        data.append({**about, **prediction})
    answer = {
        "object": "list",
        "data": data,
        "backbone_fingerprint": call.server.backbone.fingerprint,
    }
    return JSONResponse(answer, headers=headers_of(one.model for one in asked))


async def _label(call: Call, one: _Asked, how: Literal["classify", "tag"]) -> dict[str, Any]:
    engine, adapters = call.server.engine, one.model.adapters
    if adapters is None:
        raise RequestError(
            "the backbone alone labels nothing", place="model", hint="Name an adapter with a head"
        )
    cost = sum(len(text) for text in one.row.values()) // 4 + 1
    async with call.server.access.admit(call.caller, one.model.label, cost):
        if how == "classify":
            return await engine.classify(one.row, adapters)
        return await engine.tag(one.row, adapters)


def _asked(call: Call, body: TaskRequest) -> list[_Asked]:
    """Resolve the model of each text; called on a thread."""
    find = lru_cache(None)(lambda name: _find(call, name))
    if body.items is not None:
        return [_Asked(find(item.model), _row(item.input)) for item in body.items]
    texts = body.input if isinstance(body.input, list) else [body.input]
    return [_Asked(find(body.model), _row(text)) for text in texts if text is not None]


def _find(call: Call, name: str) -> Model:
    model = call.server.models.find(name)
    call.server.access.check_adapter(call.caller, model.refs)
    return model


def _row(text: str | PairText) -> dict[str, Any]:
    return {"text": text} if isinstance(text, str) else text.model_dump(exclude_none=True)


async def _by_head(call: Call, body: RerankRequest, model: Model) -> list[float]:
    labels = next(part.labels for part in model.parts if part.task == _CLASSIFIES)
    label = RELEVANT if RELEVANT in labels else labels[-1]

    async def score(document: str) -> float:
        row = {"text": body.query, "text_pair": document}
        answer = await _label(call, _Asked(model, row), "classify")
        return float(answer["scores"][label])

    return await for_each(body.documents, score)


async def _by_embedding(call: Call, body: RerankRequest, model: Model) -> list[float]:
    texts = await asyncio.to_thread(
        lambda: [
            tokens_of(call.server, text, place)
            for text, place in [(body.query, "query"), *((d, "documents") for d in body.documents)]
        ]
    )
    query, *documents = await embed_texts(call, model, texts, pooling="mean", normalize=True)
    return [float(query @ document) for document in documents]
