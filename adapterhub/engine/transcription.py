"""Transcription of recordings by an engine: many at once, or one for an event loop."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.engine.prompts import window_prompt
from adapterhub.engine.sequences import Request
from adapterhub.tasks.transcription import WrittenTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from torch import Tensor

    from adapterhub.engine.async_engine import AsyncEngine
    from adapterhub.engine.engine import Adapters, Engine
    from adapterhub.engine.outputs import CompletionOutput
    from adapterhub.engine.pooling_requests import PoolingRequest
    from adapterhub.tasks.transcription import SpeechWindow, Transcribing, Transcript


def transcribe_all(
    engine: Engine,
    transcribing: Sequence[Transcribing],
    adapters: Sequence[Adapters],
    *,
    base: bool = False,
) -> list[Transcript]:
    """Transcribe recordings, whose windows share batches.

    Args:
        engine: Engine.
        transcribing: What the task makes of each recording.
        adapters: Adapters of each recording.
        base: Whether a head reads the base model without the adapters that it belongs to.

    Raises:
        AdapterHubError: The first error of a recording.
    """
    done: dict[int, Transcript] = {}
    waiting: dict[int, Request | PoolingRequest] = {}

    def resume(index: int, found: Any) -> None:
        try:
            window = transcribing[index].send(found)
        except StopIteration as end:
            done[index] = end.value
        else:
            waiting[index] = _add(engine, window, adapters[index], base=base)

    for index in range(len(transcribing)):
        resume(index, None)
    while waiting:
        engine.step()
        for index, request in [*waiting.items()]:
            if request.finished:
                del waiting[index]
                resume(index, _result(request))
    return [done[index] for index in range(len(transcribing))]


async def transcribe(
    engine: AsyncEngine,
    transcribing: Transcribing,
    adapters: Adapters,
    *,
    turn: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
) -> Transcript:
    """Transcribe a recording; see ``transcribe_all``.

    Spectrograms are computed on threads, since they would block the event loop.

    Args:
        engine: Engine.
        transcribing: What the task makes of the recording.
        adapters: Its adapters.
        turn: Returns a context in which a window is computed.
    """
    found: Any = None
    while True:
        window = await asyncio.to_thread(_next, transcribing, found)
        if isinstance(window, _Done):
            return window.transcript
        async with turn():
            if isinstance(window, EncodedExample):
                found = await engine.label_frames(window, adapters)
            else:
                output = await engine.generate(window_prompt(window), adapters)
                found = _written(output.outputs[0])


class _Done:
    """End of a generator, which a thread can't raise."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript


def _next(transcribing: Transcribing, found: Any) -> SpeechWindow | EncodedExample | _Done:
    try:
        return transcribing.send(found)
    except StopIteration as end:
        return _Done(end.value)


def _add(
    engine: Engine, window: SpeechWindow | EncodedExample, adapters: Adapters, *, base: bool
) -> Request | PoolingRequest:
    if isinstance(window, EncodedExample):
        return engine.add_labeling(window, adapters, kind="transcript", base=base)
    return engine.add(window_prompt(window), adapters)


def _result(request: Request | PoolingRequest) -> WrittenTokens | Tensor:
    if isinstance(request, Request):
        (output,) = request.output().outputs
        if output.error is not None:
            raise output.error
        return _written(output)
    (logits,) = request.results()
    return logits


def _written(output: CompletionOutput) -> WrittenTokens:
    return WrittenTokens(tuple(output.tokens), tuple(each.chosen for each in output.logprobs))
