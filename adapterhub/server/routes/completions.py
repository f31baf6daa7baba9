"""Routes ``/v1/completions`` and ``/v1/embeddings``."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse, Response

from adapterhub.errors import RequestError
from adapterhub.server.context import CallDep, authenticated_router
from adapterhub.server.generation import (
    MIN_LOGPROB,
    GenerationJob,
    map_concurrently,
    max_tokens_for,
    respond,
    sampling_params,
)
from adapterhub.server.responses import digest_header, provenance
from adapterhub.server.routes.chat import STREAMS
from adapterhub.server.schemas.openai import (
    CompletionRequest,
    CompletionResponse,
    EmbeddingRequest,
    EmbeddingResponse,
)
from adapterhub.server.tokenization import tokenize_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.engine.prompts import PreparedPrompt
    from adapterhub.server.context import Call
    from adapterhub.server.generation import ChoiceDelta
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.server.models import ResolvedModel

router = authenticated_router("openai")
#: OpenAI's own default.
DEFAULT_COMPLETION_TOKENS = 16


@router.post(
    "/v1/completions",
    response_model=CompletionResponse,
    responses=STREAMS,
    summary="Continue texts",
)
async def complete(call: CallDep, body: CompletionRequest) -> Response:
    """Continue one or several prompts, whole or as a stream of server-sent events."""
    model = await call.open(body.model)
    prompts, limit = _prompts(body.prompt), model.loaded.context_length
    tokens = await tokenize_texts(call, model, prompts, limit, "prompt")
    job = await asyncio.to_thread(_prepare, body, model, tokens)
    return await respond(call, body, job, _CompletionFormat(body, job))


@router.post("/v1/embeddings", response_model=EmbeddingResponse, summary="Embed texts as vectors")
async def embed(call: CallDep, body: EmbeddingRequest) -> Response:
    """Return a vector for each text: the pooled hidden states of the last layer."""
    started = time.perf_counter()
    model = await call.open(body.model)
    width = int(model.loaded.backbone.config.get_text_config().hidden_size)
    if body.dimensions not in (None, width):
        raise RequestError(f"must be {width}, the backbone's hidden size", place="dimensions")
    texts = await text_tokens(call, model, _prompts(body.input), "input")
    vectors = await embed_texts(
        call, model, texts, pooling=body.pooling or "mean", normalize=body.normalize is not False
    )
    encode = _base64 if body.encoding_format == "base64" else _numbers
    tokens = sum(len(text) for text in texts)
    seconds = time.perf_counter() - started
    call.server.metrics.record_model_use(model, tokens, 0, seconds)
    content = {
        "object": "list",
        "model": model.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "adapterhub": provenance(model),
    }
    return JSONResponse(content, headers=digest_header([model]))


async def embed_texts(
    call: Call,
    model: ResolvedModel,
    texts: Sequence[tuple[int, ...]],
    *,
    pooling: Any,
    normalize: bool,
) -> list[Tensor]:
    """Return the vector of each text, given as token ids."""
    engine = model.loaded.engine

    async def embed_one(tokens: tuple[int, ...]) -> Tensor:
        async with call.admit(model, len(tokens)):
            return await engine.embed(tokens, model.adapters, pooling=pooling, normalize=normalize)

    return await map_concurrently(embed_one, texts)


async def text_tokens(
    call: Call, model: ResolvedModel, texts: Sequence[str | list[int]], place: str
) -> list[tuple[int, ...]]:
    """Return the token ids of each text to embed."""
    loaded = model.loaded
    longest = loaded.max_position_embeddings
    found = await tokenize_texts(call, model, texts, longest, place)
    for tokens in found:
        if not 0 < len(tokens) <= longest:
            raise RequestError(
                f"has {len(tokens)} tokens; the backbone reads 1 to {longest}", place=place
            )
        if max(tokens) >= int(loaded.backbone.config.get_text_config().vocab_size):
            raise RequestError(f"{max(tokens)} is not a token of the vocabulary", place=place)
    return found


def _prepare(
    body: CompletionRequest,
    model: ResolvedModel,
    tokens: Sequence[tuple[int, ...]],
) -> GenerationJob:
    """Prepare the answers to all prompts; called on a thread, as a regex takes long to compile."""
    prompts = tuple(_prepare_prompt(model.loaded, body, each) for each in tokens)
    return GenerationJob(model, prompts, prompts[0].params.n)


def _prepare_prompt(
    loaded: LoadedBackbone, body: CompletionRequest, tokens: tuple[int, ...]
) -> PreparedPrompt:
    room = max_tokens_for(loaded, len(tokens), body.max_tokens)
    processor = loaded.engine.prompt_processor
    longest = processor.defaults.max_tokens if processor.defaults is not None else None
    max_tokens = body.max_tokens or min(room, longest or DEFAULT_COMPLETION_TOKENS)
    params = sampling_params(body, max_tokens=max_tokens, logprobs=body.logprobs)
    return processor.prepare(tokens, params)


def _prompts(given: str | Sequence[str | int | list[int]]) -> list[str | list[int]]:
    """Return each prompt of a request: text, or token ids."""
    if isinstance(given, str):
        return [given]
    token_ids = [each for each in given if isinstance(each, int)]
    return [token_ids] if token_ids else [each for each in given if not isinstance(each, int)]


def _numbers(vector: Tensor) -> list[float]:
    return vector.tolist()


def _base64(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype(np.dtype("<f4")).tobytes()).decode("ascii")


class _CompletionFormat:
    """Answers of one request as completions."""

    kind = chunk_kind = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, body: CompletionRequest, job: GenerationJob) -> None:
        self._tokens = job.model.loaded.tokens
        self._logprobs = body.logprobs is not None
        self._offsets = [0] * job.num_choices
        self._pending: list[list[ChoiceDelta]] = [[] for _ in range(job.num_choices)]

    def opening(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        # the log-probabilities of tokens whose text is not complete follow with the next text
        pending = self._pending[delta.index]
        pending.append(delta)
        if not (delta.text or delta.finish_reason):
            return None
        self._pending[delta.index] = []
        return self._choice(delta.index, pending, delta.text, delta.finish_reason)

    def choice(self, index: int, deltas: Sequence[ChoiceDelta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        reason = next((each.finish_reason for each in deltas if each.finish_reason), "stop")
        return self._choice(index, deltas, text, reason)

    def _choice(
        self, index: int, deltas: Sequence[ChoiceDelta], text: str, reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "finish_reason": reason,
            "logprobs": self._logprobs_of(index, deltas) if self._logprobs else None,
        }

    def _logprobs_of(self, index: int, deltas: Sequence[ChoiceDelta]) -> dict[str, Any]:
        text_of = self._tokens.text
        tokens, chosen, top, offsets = [], [], [], []
        for delta in deltas:
            if delta.logprobs is None or delta.token is None:
                continue
            tokens.append(text_of(delta.token))
            chosen.append(max(delta.logprobs.chosen, MIN_LOGPROB))
            best = delta.logprobs.best
            top.append({text_of(token): max(value, MIN_LOGPROB) for token, value in best})
            offsets.append(self._offsets[index])
            self._offsets[index] += len(tokens[-1])
        return {
            "tokens": tokens,
            "token_logprobs": chosen,
            "top_logprobs": top,
            "text_offset": offsets,
        }
