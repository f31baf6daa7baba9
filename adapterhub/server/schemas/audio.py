"""Requests and responses of OpenAI's routes for recordings: transcriptions and translations."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import UploadFile  # noqa: TC002  # pydantic reads it
from pydantic import Field

from adapterhub.server.schemas.base import ModelName, Provenance, RequestModel, ResponseModel

#: Longest prompt, in characters; the decoder reads the end of it.
MAX_PROMPT = 8192
AudioFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class TranslationRequest(RequestModel):
    """Form of a translation to English."""

    file: UploadFile
    model: ModelName
    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] = ""
    response_format: AudioFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    # beyond OpenAI's
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None


class TranscriptionRequest(TranslationRequest):
    """Form of a transcription."""

    language: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]], Field(max_length=2, alias="timestamp_granularities[]")
    ] = Field(default_factory=list)
    stream: bool = False


class AudioUsage(ResponseModel):
    """Duration of a recording."""

    type: Literal["duration"]
    seconds: float


class TranscriptSegment(ResponseModel):
    """Part of a transcript; ``no_speech_prob`` is not computed."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float | None
    compression_ratio: float
    no_speech_prob: float | None


class TranscriptionResponse(ResponseModel):
    """Transcript of a recording; the fields after ``usage`` are those of ``verbose_json``."""

    text: str
    usage: AudioUsage
    task: Literal["transcribe", "translate"] | None = None
    language: str | None = None
    duration: float | None = None
    segments: list[TranscriptSegment] | None = None
    adapterhub: Provenance
