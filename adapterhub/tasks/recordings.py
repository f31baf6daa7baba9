"""The recording of an example, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.data.audio import AudioFile
from adapterhub.errors import DataError
from adapterhub.tasks.fields import place_of, required

if TYPE_CHECKING:
    from adapterhub.tasks.fields import Example


def audio_field(example: Example, number: int) -> AudioFile:
    """Return the recording of an example, not decoded.

    Raises:
        DataError: naming example and field, when it is missing.
    """
    recording = required(example, "audio", number)
    if not isinstance(recording, AudioFile):
        raise DataError(
            f"the value must be a recording, not {type(recording).__name__}",
            place=place_of(number, "audio"),
            hint="Read it with adapterhub.data.media.read_media",
        )
    return recording


def recording_of(example: Example, number: int, rate: int, max_seconds: float) -> AudioFile:
    """Return the recording of an example, which is decoded once to check it.

    Raises:
        DataError: naming example and field, when it is missing or can't be decoded.
    """
    recording, place = audio_field(example, number), place_of(number, "audio")
    try:
        recording.waveform(rate, max_seconds)
    except DataError as error:
        problem = f"the recording {error.place!r} {error.problem}"
        raise DataError(problem, place=place, hint=error.hint) from None
    return recording


def short_recording_of(example: Example, number: int, rate: int, max_seconds: float) -> AudioFile:
    """Return the recording of an example that must be read whole; see ``recording_of``.

    Raises:
        DataError: when it is longer than ``max_seconds``, too.
    """
    recording = recording_of(example, number, rate, max_seconds)
    seconds = recording.seconds()
    if seconds > max_seconds:
        raise DataError(
            f"the recording {recording.name!r} is {seconds:.3g} s long, the limit is "
            f"{max_seconds:g} s",
            place=place_of(number, "audio"),
            hint="Divide it, or train with a larger task.max_seconds",
        )
    return recording
