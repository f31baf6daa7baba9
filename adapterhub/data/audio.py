"""Recordings of examples, decoded by libsndfile within bounds and resampled once."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapterhub.data.media import MediaFile
from adapterhub.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Formats that libsndfile may decode, by its names; others are not needed.
FORMATS = {"WAV": "WAV", "WAVEX": "WAV", "FLAC": "FLAC", "MP3": "MP3"}
#: Bounds of what a header may claim, since samples are read as many as it says.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 1_000, 192_000, 16
#: Shortest recording in seconds; models of waveforms need a few frames of 20 ms.
MIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class AudioFile(MediaFile):
    """A recording, not decoded."""

    noun: ClassVar[str] = "recording"

    def waveform(self, rate: int, most_seconds: float) -> NDArray[np.float32]:
        """Return the start of the recording: the mean of its channels ``[samples]``, resampled.

        Args:
            rate: Samples per second of the result.
            most_seconds: Longest part that is read, in seconds.

        Raises:
            DataError: when it is not a recording of a supported format, damaged, or too short.
            MissingExtraError: without the packages that read audio.
        """
        with self._opened() as file:
            own_rate = int(file.samplerate)
            count = max(1, round(most_seconds * own_rate))
            # a few bytes may claim any number of samples, so they are read block by block
            blocks = file.blocks(own_rate, frames=count, dtype="float32", always_2d=True)
            parts = [block.mean(axis=1) for block in blocks]
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if not np.isfinite(samples).all():
            raise DataError("holds samples that are not finite", place=self.name)
        if len(samples) < MIN_SECONDS * own_rate:
            raise DataError(
                f"is {len(samples) / own_rate:.3g} s long, the least is {MIN_SECONDS} s",
                place=self.name,
                hint="Is the file complete?",
            )
        return _resampled(samples, own_rate, rate)

    def seconds(self) -> float:
        """Return the duration that the header claims, in seconds.

        Raises:
            DataError: when it is not a recording of a supported format.
        """
        with self._opened() as file:
            return float(file.frames / file.samplerate)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the recording and check its header."""
        soundfile = _soundfile()
        try:
            with soundfile.SoundFile(io.BytesIO(self.content)) as file:
                _check_header(file, self.name)
                yield file
        except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
            reason = " ".join(str(error).split()).partition(": ")[2].rstrip(".")
            raise DataError(
                f"can't be read as a recording{f': {reason}' if reason else ''}",
                place=self.name,
                hint=_HINT,
            ) from error


_HINT = f"Supported formats: {', '.join(dict.fromkeys(FORMATS.values()))}"


def _check_header(file: Any, name: str) -> None:
    if file.format not in FORMATS:
        raise DataError(f"is of the format {file.format}", place=name, hint=_HINT)
    if not MIN_RATE <= file.samplerate <= MAX_RATE or not 1 <= file.channels <= MAX_CHANNELS:
        raise DataError(
            f"has {file.channels} channels of {file.samplerate} samples per second",
            place=name,
            hint=f"Up to {MAX_CHANNELS} channels of {MIN_RATE} to {MAX_RATE} are read",
        )


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingExtraError("soundfile", "audio") from error
    return soundfile


def _resampled(samples: NDArray[np.float32], own: int, rate: int) -> NDArray[np.float32]:
    if own == rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise MissingExtraError("soxr", "audio") from error
    found: NDArray[np.float32] = soxr.resample(samples, own, rate, quality="HQ")
    return found
