"""``/v1/embeddings``."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse

from adapterhub.errors import RequestError
from adapterhub.server.describing import headers_of, provenance
from adapterhub.server.fanning import for_each
from adapterhub.server.routes.asked import find_model
from adapterhub.server.routes.completions import prompts_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from torch import Tensor

    from adapterhub.server.context import Call, Server
    from adapterhub.server.models import Model
    from adapterhub.server.schemas.completion import EmbeddingRequest


async def embed(call: Call, body: EmbeddingRequest) -> Response:
    """Map texts to vectors."""
    began = time.perf_counter()
    model, texts = await asyncio.to_thread(_prepare, call, body)
    vectors = await embed_texts(
        call, model, texts, pooling=body.pooling or "mean", normalize=body.normalize is not False
    )
    write = _base64 if body.encoding_format == "base64" else _numbers
    read = sum(len(text) for text in texts)
    call.server.metrics.used(model.names, read, 0, time.perf_counter() - began)
    data = [
        {"object": "embedding", "index": index, "embedding": write(vector)}
        for index, vector in enumerate(vectors)
    ]
    answer = {
        "object": "list",
        "model": model.text,
        "data": data,
        "usage": {"prompt_tokens": read, "total_tokens": read},
        "adapterhub": provenance(call.server, model),
    }
    return JSONResponse(answer, headers=headers_of([model]))


async def embed_texts(
    call: Call, model: Model, texts: list[tuple[int, ...]], *, pooling: Any, normalize: bool
) -> list[Tensor]:
    """Return the vector of each text, given as token ids."""
    server = call.server

    async def one(tokens: tuple[int, ...]) -> Tensor:
        async with server.access.admit(call.caller, model.label, len(tokens)):
            return await server.engine.embed(
                tokens, model.adapters, pooling=pooling, normalize=normalize
            )

    return await for_each(texts, one)


def tokens_of(server: Server, text: str | list[int], place: str) -> tuple[int, ...]:
    """Return the token ids of a text.

    Raises:
        RequestError: when there are none, too many, or one is no token.
    """
    tokens = server.engine.prompt_processor.encode(text) if isinstance(text, str) else tuple(text)
    longest = int(getattr(server.backbone.config, "max_position_embeddings", 0) or 2**31)
    if not 0 < len(tokens) <= longest:
        raise RequestError(
            f"has {len(tokens)} tokens, the backbone reads 1 to {longest}", place=place
        )
    size = int(server.backbone.config.vocab_size)
    if max(tokens) >= size:
        raise RequestError(f"{max(tokens)} is no token of the vocabulary", place=place)
    return tokens


def _prepare(call: Call, body: EmbeddingRequest) -> tuple[Model, list[tuple[int, ...]]]:
    """Resolve and tokenize; called on a thread."""
    server = call.server
    width = int(server.backbone.config.hidden_size)
    if body.dimensions not in (None, width):
        raise RequestError(f"must be {width}, which the backbone has", place="dimensions")
    model = find_model(call, body.model)
    return model, [tokens_of(server, text, "input") for text in prompts_of(body.input)]


def _numbers(vector: Tensor) -> list[float]:
    return vector.tolist()


def _base64(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype(np.dtype("<f4")).tobytes()).decode("ascii")
