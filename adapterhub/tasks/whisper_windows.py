"""Windows of a recording for Whisper, and the segments of what it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from adapterhub.tasks.transcription import (
    Segment,
    SpeechWindow,
    Transcript,
    TranscriptionOptions,
    WrittenTokens,
    whole_waveform,
)
from adapterhub.tasks.whisper_prompts import TIME_PRECISION, language_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from adapterhub.data.audio import AudioFile
    from adapterhub.tasks.transcription import SpeechTask, Transcribing
    from adapterhub.tasks.whisper_prompts import WhisperPrompts

#: Frames of a spectrogram in a second, and of a position of the encoder.
_FRAMES_PER_SECOND, _FRAMES_PER_POSITION = 100, 2


class WhisperWindows:
    """Transcribes recordings of any length as Whisper does.

    A recording that fits into a window is computed at once. A longer one is computed in windows,
    each of which begins where the last timestamp of the one before is.

    Args:
        prompts: Prompts of the decoder.
        extractor: Feature extractor.
        num_beams: Beams of a search where the temperature is 0.

    Source: Radford et al. 2022, section 3.8; ``generate`` in
    ``transformers/models/whisper/generation_whisper.py``.
    """

    def __init__(self, prompts: WhisperPrompts, extractor: Any, *, num_beams: int = 1) -> None:
        self._prompts, self._extractor, self._num_beams = prompts, extractor, num_beams
        self._rate = int(extractor.sampling_rate)
        #: frames of a window, and positions of the encoder for them
        self.num_frames = int(extractor.chunk_length) * _FRAMES_PER_SECOND
        self.num_positions = self.num_frames // _FRAMES_PER_POSITION

    def transcribe(
        self,
        recording: AudioFile,
        options: TranscriptionOptions,
        *,
        language: str | None,
        task: SpeechTask,
        timestamps: bool,
    ) -> Transcribing:
        """Transcribe a recording; see ``Transcription``.

        Args:
            recording: Recording.
            options: Prompt and sampling.
            language: Code of the language; detected in the first window if ``None``.
            task: Whether to transcribe or translate.
            timestamps: Whether a recording of one window has timestamps.
        """
        samples = whole_waveform(recording, self._rate)
        seconds = len(samples) / self._rate
        num_frames = max(1, math.ceil(seconds * _FRAMES_PER_SECOND))
        long = num_frames > self.num_frames
        features = self._features(samples, long=long)
        if language is None:
            found = yield self._detection(features)
            if not isinstance(found, WrittenTokens):
                raise TypeError("a decoder writes tokens")
            language = self._prompts.detected(found.tokens[0])
        timestamps = timestamps or long
        prompt = (
            *self._prompts.previous(options.prompt),
            *self._prompts.prompt(language, task, timestamps=timestamps),
        )
        segments: list[Segment] = []
        seek = windows = 0
        while seek < num_frames:
            window = self._window(features, seek, prompt, options, timestamps=timestamps)
            written = yield window
            if not isinstance(written, WrittenTokens):
                raise TypeError("a decoder writes tokens")
            windows += 1
            size = min(num_frames - seek, self.num_frames)
            first = self._prompts.first_timestamp if timestamps else None
            parts = split_segments(written.tokens, first, size)
            segments += self._segments(parts, seek, seconds, written)
            if not timestamps:
                break
            seek += parts.advance
        return Transcript(
            "".join(each.text for each in segments).strip(),
            tuple(segments),
            seconds,
            language_name(language),
            task,
            windows,
        )

    def _features(self, samples: Any, *, long: bool) -> Tensor:
        """Return the spectrogram ``[mel, frames]``, of a short recording filled up to a window."""
        how = {"truncation": False, "padding": "longest"} if long else {}
        found = self._extractor(samples, sampling_rate=self._rate, return_tensors="pt", **how)
        features: Tensor = found["input_features"][0]
        return features

    def _slice(self, features: Tensor, seek: int) -> Callable[[], Tensor]:
        part = features[:, seek : seek + self.num_frames]
        return lambda: F.pad(part, (0, self.num_frames - part.shape[1]))

    def _window(
        self,
        features: Tensor,
        seek: int,
        prompt: tuple[int, ...],
        options: TranscriptionOptions,
        *,
        timestamps: bool,
    ) -> SpeechWindow:
        beams = self._num_beams if options.temperature == 0 else 1
        return SpeechWindow(
            self._slice(features, seek),
            self.num_positions,
            prompt,
            self._prompts.rules(len(prompt), timestamps=timestamps),
            max(1, self._prompts.num_positions - len(prompt)),
            (self._prompts.end,),
            options.temperature,
            options.seed,
            beams,
            logprobs=beams == 1,
        )

    def _detection(self, features: Tensor) -> SpeechWindow:
        return SpeechWindow(
            self._slice(features, 0),
            self.num_positions,
            self._prompts.start,
            self._prompts.detection,
            max_tokens=1,
            stop_ids=(),
        )

    def _segments(
        self, parts: WindowSegments, seek: int, seconds: float, written: WrittenTokens
    ) -> list[Segment]:
        offset = seek / _FRAMES_PER_SECOND
        return [
            Segment(
                round(min(offset + start, seconds), 3),
                round(min(offset + end, seconds), 3),
                self._prompts.text(tokens),
                tuple(tokens),
                seek,
                written.avg_logprob,
            )
            for start, end, tokens in parts.segments
            if self._prompts.text(tokens).strip()
        ]


@dataclass(frozen=True, slots=True)
class WindowSegments:
    """Segments of a window.

    Args:
        segments: Start and end in seconds from the start of the window, and the tokens.
        advance: Frames from the start of the window to that of the next.
    """

    segments: tuple[tuple[float, float, tuple[int, ...]], ...]
    advance: int


def split_segments(
    tokens: Sequence[int], first_timestamp: int | None, num_frames: int
) -> WindowSegments:
    """Return the segments between the timestamps of a window.

    Where two timestamps meet, a segment ends. What follows the last such place is not complete and
    computed again in the next window, unless the text ends with a single timestamp: then nothing
    more is said in the window.

    Args:
        tokens: Tokens of a window, without the one that ends them.
        first_timestamp: Token of the time 0; ``None`` for a text without timestamps.
        num_frames: Frames of the recording in the window.

    Source: ``_retrieve_segment`` in ``transformers/models/whisper/generation_whisper.py``.
    """
    if first_timestamp is None:
        end = num_frames / _FRAMES_PER_SECOND
        return WindowSegments(((0.0, end, tuple(tokens)),), num_frames)
    is_time = [token >= first_timestamp for token in tokens]

    def seconds(token: int) -> float:
        return (token - first_timestamp) * TIME_PRECISION

    ends = [at + 1 for at in range(len(tokens) - 1) if is_time[at] and is_time[at + 1]]
    if not ends:
        times = [token for token, timed in zip(tokens, is_time, strict=True) if timed]
        end = num_frames / _FRAMES_PER_SECOND
        if times and times[-1] != first_timestamp:
            end = seconds(times[-1])
        return WindowSegments(((0.0, end, tuple(tokens)),), num_frames)
    single_end = is_time[-2:] == [False, True]
    if single_end:
        ends.append(len(tokens))
    pieces = [tuple(tokens[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    segments = tuple((seconds(each[0]), seconds(each[-1]), each) for each in pieces)
    if single_end:
        return WindowSegments(segments, num_frames)
    last = pieces[-1][-1] - first_timestamp
    # a window that ends where it began would be computed for ever
    return WindowSegments(segments, last * _FRAMES_PER_POSITION or num_frames)
