"""Transcripts of recordings of any length by a character for each frame, with times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from adapterhub.data.packing import EncodedExample
from adapterhub.tasks.transcription import Segment, Transcript, whole_waveform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.data.audio import AudioFile
    from adapterhub.tasks.preprocessors import AudioLoader
    from adapterhub.tasks.transcription import Transcribing

#: Share of a window at each inner end that is computed for its neighbours, and not read.
#: Source: ``chunk_iter`` in ``transformers/pipelines/automatic_speech_recognition.py``.
_STRIDE = 1 / 6
#: Silence in seconds that ends a segment.
_PAUSE = 0.5


def text_of_frames(frames: Sequence[int], labels: Sequence[str]) -> str:
    """Return the text of the label of each frame: repetitions joined, blanks (0) left out."""
    text = "".join(labels[at] for at, _ in groupby(frames) if at)
    return " ".join(text.split())


def transcribe_frames(
    recording: AudioFile, loader: AudioLoader, labels: Sequence[str], window_seconds: float
) -> Transcribing:
    """Transcribe a recording; see ``Transcription``.

    A recording that is longer than a window is computed in windows that overlap, of which the
    ends that overlap are not read.

    Args:
        recording: Recording.
        loader: Prepares samples for the model.
        labels: Labels of the head, the blank first.
        window_seconds: Longest window.
    """
    samples = whole_waveform(recording, loader.rate)
    seconds = len(samples) / loader.rate
    frames: list[int] = []
    starts: list[float] = []
    windows = 0
    for window in _windows(len(samples), int(window_seconds * loader.rate)):
        features = loader.features_of(samples[window.start : window.end])
        logits = yield EncodedExample(
            number=1,
            input_ids=(),
            select=(),
            media=partial(torch.clone, features),
            positions=loader.positions_of((window.end - window.start) / loader.rate),
        )
        if not isinstance(logits, torch.Tensor):
            raise TypeError("a head gives logits")
        windows += 1
        best = logits.argmax(-1).tolist()
        per_frame = (window.end - window.start) / len(best)
        first = round((window.read_from - window.start) / per_frame)
        last = round((window.read_to - window.start) / per_frame)
        frames += best[first:last]
        starts += [(window.start + at * per_frame) / loader.rate for at in range(first, last)]
    segments = tuple(_segments(frames, [*starts, seconds], labels))
    return Transcript(text_of_frames(frames, labels), segments, seconds, windows=windows)


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples of a window, and those of which the frames are read."""

    start: int
    end: int
    read_from: int
    read_to: int


def _windows(count: int, size: int) -> Iterator[_Window]:
    """Yield windows of which the parts that are read cover all samples."""
    if count <= size:
        yield _Window(0, count, 0, count)
        return
    stride = int(size * _STRIDE)
    start = read = 0
    while read < count:
        end = min(start + size, count)
        # the last window ends with the recording
        start = end - size
        read_to = count if end == count else end - stride
        yield _Window(start, end, read, read_to)
        start, read = read_to - stride, read_to


def _segments(
    frames: Sequence[int], times: Sequence[float], labels: Sequence[str]
) -> Iterator[Segment]:
    """Yield the parts of a transcript between pauses.

    Args:
        frames: Label of each frame.
        times: Start of each frame in seconds, and the end of the last.
        labels: Labels, the blank first.
    """
    spoken = [at for at, label in enumerate(frames) if label and labels[label].strip()]
    if not spoken:
        return
    first = last = spoken[0]
    for at in [*spoken[1:], None]:
        if at is not None and times[at] - times[last + 1] < _PAUSE:
            last = at
            continue
        text = text_of_frames(frames[first : last + 1], labels)
        yield Segment(round(times[first], 3), round(times[last + 1], 3), f" {text}")
        if at is not None:
            first = last = at
