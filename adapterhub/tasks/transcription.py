"""Transcription of whole recordings: what a task asks an engine for, and what comes of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.data.audio import AudioFile
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.token_rules import TokenRules

#: Whether words are written in the language that is spoken, or in English.
SpeechTask = Literal["transcribe", "translate"]
#: Longest recording that is transcribed, in seconds; its spectrogram is kept in memory.
MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """Options of a transcription request.

    Args:
        language: Language of the recording, as a code or an English name; the recipe's if ``None``,
            and detected where it has none either.
        task: Whether to transcribe or to translate to English; as in the recipe if ``None``.
        prompt: Text that the transcript continues, for names and spelling.
        timestamps: Whether segments begin and end where the model says.
        temperature: Sampling temperature; 0 takes the likeliest token each time.
        seed: Seed of sampling.
    """

    language: str | None = None
    task: SpeechTask | None = None
    prompt: str = ""
    timestamps: bool = False
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a transcript.

    Args:
        start: First moment, in seconds from the start of the recording.
        end: Last moment, in seconds.
        text: What is said.
        tokens: Token ids, timestamps included; none of a model of characters.
        seek: Start of its window, in frames of 10 ms.
        avg_logprob: Mean log-probability of the tokens of its window, where it is known.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    seek: int = 0
    avg_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """Transcript of a recording.

    Args:
        text: The whole text.
        segments: Its parts, in order.
        duration: Duration of the recording in seconds.
        language: English name of the language of the recording; empty if unknown.
        task: Whether it was transcribed or translated.
        windows: Number of windows that were computed.
    """

    text: str
    segments: tuple[Segment, ...]
    duration: float
    language: str = ""
    task: SpeechTask = "transcribe"
    windows: int = 1

    def prediction(self) -> dict[str, Any]:
        """Return the transcript as plain JSON values."""
        segments = [{"start": e.start, "end": e.end, "text": e.text} for e in self.segments]
        return {"text": self.text, "segments": segments}


@dataclass(frozen=True, slots=True, eq=False)
class SpeechWindow:
    """A window of a recording for an encoder, and what its decoder begins with.

    Args:
        features: Returns the input of the encoder.
        num_positions: Number of positions of the encoder.
        prompt: Token ids that the decoder reads first.
        rules: Tokens that may not come next.
        max_tokens: Most tokens of the transcript of the window.
        stop_ids: Tokens that end it.
        temperature: Sampling temperature.
        seed: Seed of sampling.
        num_beams: Beams of a search for the likeliest transcript; 1 for none.
        logprobs: Whether log-probabilities of the tokens are wanted.
    """

    features: Callable[[], Tensor]
    num_positions: int
    prompt: tuple[int, ...]
    rules: TokenRules
    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    seed: int | None = None
    num_beams: int = 1
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class WrittenTokens:
    """Tokens that a decoder wrote for a window, without the one that ends them.

    Args:
        tokens: Token ids.
        logprobs: Log-probability of each token and of the end; empty where they are not known.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()

    @property
    def avg_logprob(self) -> float | None:
        """Mean log-probability of the tokens."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


#: Yields windows for an engine: one for a decoder, whose ``WrittenTokens`` are sent, or an example
#: for a head, whose logits ``[frames, vocabulary]`` are sent. Returns the transcript.
Transcribing: TypeAlias = Generator[
    "SpeechWindow | EncodedExample", "WrittenTokens | Tensor", Transcript
]


class Transcription(Protocol):
    """Transcription by a task."""

    @property
    def window_tokens(self) -> int:
        """KV-cache tokens of a window with the longest transcript; 0 where a head reads it."""

    def transcribe(self, recording: AudioFile, options: TranscriptionOptions) -> Transcribing:
        """Transcribe a recording of any length, window by window.

        Raises:
            DataError: When the recording can't be read, or is too long.
            RequestError: When an option can't be used.
        """


def whole_waveform(recording: AudioFile, rate: int) -> NDArray[np.float32]:
    """Return all samples of a recording.

    Raises:
        DataError: When it can't be read, or is too long.
    """
    seconds = recording.seconds()
    if seconds > MAX_SECONDS:
        raise DataError(
            f"is {seconds:.0f} s long, the limit is {MAX_SECONDS:.0f} s",
            place=recording.name,
            hint="Divide it",
        )
    return recording.waveform(rate, MAX_SECONDS)
