"""Audio classification: one label for a recording."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import EncodedExample
from adapterhub.tasks.classification import SingleLabelTask
from adapterhub.tasks.preprocessors import AudioLoader
from adapterhub.tasks.recording_parts import RecordingParts
from adapterhub.tasks.recordings import recording_of
from adapterhub.tasks.text_classification import LabelAttribution, check_label

if TYPE_CHECKING:
    from adapterhub.tasks.base import AuditSpec, HeadKind, Pool
    from adapterhub.tasks.fields import Example


class AudioClassification(SingleLabelTask):
    """Examples have ``audio``, an ``AudioFile``, and ``label``: a name or a whole number.

    Recordings are read as one channel, resampled once to the rate of the backbone, and prepared by
    the backbone's own feature extractor. What follows after ``max_seconds`` is not read.
    """

    name: str = "audio-classification"
    pipeline_tag: str = "audio-classification"
    # peft has no type for recordings, and needs none
    peft_task_type: str = ""
    head: HeadKind = "audio"
    default_metric: tuple[str, bool] = ("accuracy", True)
    audit: AuditSpec | None = None

    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        self._loader = AudioLoader(preprocessor, self.options.max_seconds)

    @property
    def attribution(self) -> LabelAttribution:
        """Attribution of the label to parts of the recording."""
        parts = RecordingParts(self._loader, lambda each: self.encode(each, 1, train=False))
        check = partial(check_label, self.classes)
        names = ("audio", "")
        return LabelAttribution(self.name, parts, self.labels, self.outcome, check, names=names)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Check that the recording of an example can be decoded; see ``Task.encode``."""
        recording = recording_of(example, number, self._loader.rate, self.options.max_seconds)
        return EncodedExample(
            number=number,
            input_ids=(),
            select=(0,),
            targets=self.classes.targets(example, number, train=train),
            media=partial(self._loader.features, recording),
            positions=self._loader.positions(recording),
        )
