"""``/v1/generate``: rows of tasks by instruction, with the prompt that was trained."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.server.describing import usage
from adapterhub.server.generation import Job, pieces, room_for
from adapterhub.server.routes.asked import answer_each, asked_rows

if TYPE_CHECKING:
    from starlette.responses import Response

    from adapterhub.server.context import Call, Server
    from adapterhub.server.routes.asked import Asked
    from adapterhub.server.schemas.tasks import GenerateRequest
    from adapterhub.tasks.instructed import Instructed


async def generate(call: Call, body: GenerateRequest) -> Response:
    """Translate, sum up or answer, as ``adapterhub predict`` does: greedily."""
    asked = await asyncio.to_thread(asked_rows, call, body, _row)

    async def write(one: Asked) -> dict[str, Any]:
        task, job = await asyncio.to_thread(_prepare, call.server, one, body.max_tokens)
        return await _written(call, task, job)

    return await answer_each(call, asked, write, counted=True)


def _row(given: str | dict[str, str]) -> dict[str, Any]:
    return {"text": given} if isinstance(given, str) else dict(given)


def _prepare(server: Server, one: Asked, most: int | None) -> tuple[Instructed, Job]:
    """Find the prompt of a row; called on a thread."""
    task = server.tasks.task(one.model)
    tokens = tuple(server.tasks.prompt(task, one.row))
    room = room_for(server, len(tokens), most)
    params = SamplingParams(
        temperature=0,
        max_tokens=most or min(room, task.options.max_new_tokens),
        stop_token_ids=tuple(sorted(task.stop_ids)),
    )
    return task, Job(one.model, (server.engine.prompt_processor.read(tokens, params),), 1)


async def _written(call: Call, task: Instructed, job: Job) -> dict[str, Any]:
    tokens: list[int] = []
    generated, reason = 0, "stop"
    async with aclosing(pieces(call, job)) as found:
        async for piece in found:
            generated += piece.counted
            reason = piece.finish or reason
            if piece.token is not None:
                tokens.append(piece.token)
    return {
        "text": task.text_of(tokens),
        "finish_reason": reason,
        "usage": usage(job.prompt_tokens, generated),
    }
