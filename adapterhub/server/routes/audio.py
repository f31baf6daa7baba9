"""OpenAI's routes for recordings: ``/v1/audio/transcriptions`` and ``/v1/audio/translations``."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Form
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.data.audio import AudioFile
from adapterhub.engine.transcription import transcribe
from adapterhub.errors import DataError, RequestError
from adapterhub.server.context import CallDep, authenticated_router
from adapterhub.server.responses import digest_header, provenance
from adapterhub.server.schemas.audio import (
    TranscriptionRequest,
    TranscriptionResponse,
    TranslationRequest,
)
from adapterhub.tasks.transcription import TranscriptionOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from adapterhub.server.context import Call
    from adapterhub.server.models import ResolvedModel
    from adapterhub.tasks.transcription import Segment, SpeechTask, Transcript

router = authenticated_router("openai")
#: Formats whose segments need times.
_TIMED = frozenset({"verbose_json", "srt", "vtt"})


@router.post(
    "/v1/audio/transcriptions",
    response_model=TranscriptionResponse,
    summary="Transcribe a recording",
)
async def transcriptions(call: CallDep, form: Annotated[TranscriptionRequest, Form()]) -> Response:
    """Write what is said in a recording, as JSON, plain text or subtitles."""
    if "word" in form.timestamp_granularities:
        raise RequestError(
            "times of words are not supported",
            place="timestamp_granularities",
            hint="Use segment",
        )
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise RequestError("needs response_format verbose_json", place="timestamp_granularities")
    if form.stream:
        raise RequestError("transcripts are not streamed", place="stream", hint="Leave it out")
    return await _respond(call, form, None, form.language)


@router.post(
    "/v1/audio/translations",
    response_model=TranscriptionResponse,
    summary="Translate a recording to English",
)
async def translations(call: CallDep, form: Annotated[TranslationRequest, Form()]) -> Response:
    """Write in English what is said in a recording."""
    return await _respond(call, form, "translate", None)


async def _respond(
    call: Call, form: TranslationRequest, task: SpeechTask | None, language: str | None
) -> Response:
    recording = AudioFile("file", await form.file.read())
    options = TranscriptionOptions(
        language=language,
        task=task,
        prompt=form.prompt,
        timestamps=form.response_format in _TIMED,
        temperature=form.temperature,
        seed=None if form.seed is None else form.seed % 2**64,
    )
    model = await call.open(form.model)
    started = time.perf_counter()
    found = await _transcribe(call, model, recording, options)
    seconds = time.perf_counter() - started
    tokens = sum(len(segment.tokens) for segment in found.segments)
    call.server.metrics.record_model_use(model, 0, tokens, seconds)
    headers = digest_header([model])
    if form.response_format == "text":
        return PlainTextResponse(f"{found.text}\n", headers=headers)
    if form.response_format == "srt":
        return PlainTextResponse(srt(found.segments), headers=headers)
    if form.response_format == "vtt":
        return PlainTextResponse(vtt(found.segments), headers=headers)
    content: dict[str, Any] = {
        "text": found.text,
        "usage": {"type": "duration", "seconds": found.duration},
        "adapterhub": provenance(model),
    }
    if form.response_format == "verbose_json":
        content |= {
            "task": found.task,
            "language": "english" if found.task == "translate" else found.language,
            "duration": found.duration,
            "segments": [
                _segment(number, each, form.temperature)
                for number, each in enumerate(found.segments)
            ],
        }
    return JSONResponse(content, headers=headers)


async def _transcribe(
    call: Call, model: ResolvedModel, recording: AudioFile, options: TranscriptionOptions
) -> Transcript:
    loaded = model.loaded
    try:
        task = await asyncio.to_thread(loaded.tasks.transcription, model.parts)
        steps = task.transcribe(recording, options)
        cost = task.window_tokens or 1
        return await transcribe(
            loaded.engine,
            steps,
            model.adapters,
            turn=lambda: call.admit(model, cost),
        )
    except DataError as error:
        raise RequestError(error.problem, place="file", hint=error.hint) from error


def _segment(number: int, segment: Segment, temperature: float) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": number,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": None,
    }


def srt(segments: Iterable[Segment]) -> str:
    """Return segments as SubRip subtitles."""
    return "".join(
        f"{number}\n{_time(each.start, ',')} --> {_time(each.end, ',')}\n{_cue(each.text)}\n\n"
        for number, each in enumerate(segments, start=1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """Return segments as WebVTT subtitles. Source: https://www.w3.org/TR/webvtt1/."""
    cues = (f"{_time(e.start, '.')} --> {_time(e.end, '.')}\n{_cue(e.text)}\n\n" for e in segments)
    return f"WEBVTT\n\n{''.join(cues)}"


def _cue(text: str) -> str:
    """Return text that can't be taken for the line of times or the end of a cue."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
