"""Equal parts of a recording, by whose silence a label is explained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from adapterhub.tasks.attribution import AttributionInput, InputText
from adapterhub.tasks.words import Word

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

    from adapterhub.data.audio import AudioFile
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.preprocessors import AudioLoader

#: Most parts of a recording, and the least seconds of one: about a vowel.
MAX_PARTS, MIN_SECONDS = 20, 0.05


@dataclass(frozen=True, slots=True)
class RecordingParts:
    """Divides recordings into parts of equal length, which stand for words.

    Args:
        loader: Loader of recordings.
        encode: Encodes an example.
    """

    loader: AudioLoader
    encode: Callable[[Example], EncodedExample]

    def attribution_input(self, example: Example, names: tuple[str, str]) -> AttributionInput:
        """Return an example with its parts as words, such as ``0.00-0.05 s``."""
        recording, encoded = example["audio"], self.encode(example)
        total, longest = recording.seconds(), self.loader.max_seconds
        read = min(total, longest)
        count = min(MAX_PARTS, max(1, int(read / MIN_SECONDS)))
        return AttributionInput(
            encoded,
            [_text(names[0], read, count)],
            range(count),
            ceil((total - read) / (read / count)),
            without=partial(self._without, recording, encoded, count),
        )

    def _without(
        self, recording: AudioFile, encoded: EncodedExample, count: int, absent: Collection[int]
    ) -> EncodedExample:
        """Return an example in which some of ``count`` parts are silent."""

        def features() -> Tensor:
            samples = recording.waveform(self.loader.rate, self.loader.max_seconds).copy()
            for part in absent:
                first, last = (round(len(samples) * at / count) for at in (part, part + 1))
                samples[first:last] = 0
            return self.loader.features_of(samples)

        return replace(encoded, media=features)


def _text(name: str, seconds: float, count: int) -> InputText:
    """Return the parts as a text of words."""
    text, words = "", []
    for part in range(count):
        start, end = (seconds * at / count for at in (part, part + 1))
        found = f"{start:.2f}–{end:.2f}s"
        text += found if not text else f"  {found}"
        words.append(Word(found, len(text) - len(found), len(text)))
    return InputText(name, text, words)
