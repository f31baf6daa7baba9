"""The recording of an example, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.data.audio import AudioFile
from adapterhub.errors import DataError
from adapterhub.tasks.fields import place_of, required

if TYPE_CHECKING:
    from adapterhub.tasks.fields import Example


def recording_of(example: Example, number: int, rate: int, max_seconds: float) -> AudioFile:
    """Return the recording of an example, which is decoded once to check it.

    Raises:
        DataError: naming example and field, when it is missing or can't be decoded.
    """
    recording, place = required(example, "audio", number), place_of(number, "audio")
    if not isinstance(recording, AudioFile):
        raise DataError(
            f"the value must be a recording, not {type(recording).__name__}",
            place=place,
            hint="Read it with adapterhub.data.media.read_media",
        )
    try:
        recording.waveform(rate, max_seconds)
    except DataError as error:
        problem = f"the recording {error.place!r} {error.problem}"
        raise DataError(problem, place=place, hint=error.hint) from None
    return recording
