"""Speech recognition by connectionist temporal classification (CTC): one character per frame."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn import functional as F

from adapterhub.data.field_mapping import display_text
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import RecipeError, RequestError
from adapterhub.tasks.base import BLANK, Evaluation, Outcome, UnsplitTask
from adapterhub.tasks.classification import require_any
from adapterhub.tasks.fields import is_given
from adapterhub.tasks.frame_transcripts import text_of_frames, transcribe_frames
from adapterhub.tasks.predictions import ErrorExample, ExampleStatistics, ratio
from adapterhub.tasks.preprocessors import AudioLoader
from adapterhub.tasks.recordings import short_recording_of
from adapterhub.tasks.transcripts import normalizer, transcript, word_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.data.audio import AudioFile
    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import AuditSpec, Head, HeadKind, TaskOptions
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array
    from adapterhub.tasks.transcription import Transcribing, TranscriptionOptions

_ERROR = "word error rate"
_MEANING = ("word errors", "words", "character errors", "characters")


class SpeechRecognition(UnsplitTask):
    """Examples have ``audio``, an ``AudioFile``, and ``text``, its transcript.

    The head gives each frame of the backbone a character or the blank. A transcript is the
    likeliest character of each frame, repetitions joined and blanks left out.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006.
    """

    name: str = "speech-recognition"
    pipeline_tag: str = "automatic-speech-recognition"
    # peft has no type for recordings, and needs none
    peft_task_type: str = ""
    head: HeadKind = "ctc"
    default_metric: tuple[str, bool] = ("wer", False)
    audit: AuditSpec | None = None
    attribution: None = None
    generation: None = None

    def __init__(self, extractor: Any, options: TaskOptions) -> None:
        """Set up the task.

        Args:
            extractor: Feature extractor of the backbone.
            options: Settings from the recipe, with the vocabulary.

        Raises:
            RecipeError: when the vocabulary is missing or repeats a character.
        """
        characters = options.vocabulary or ""
        if not characters or len(set(characters)) < len(characters):
            raise RecipeError(
                f"{characters!r:.80} is no list of different characters",
                place="task.vocabulary",
                hint="Leave it out: training takes the characters of its transcripts",
            )
        _check_unused(options)
        self.options = options
        self._clean = normalizer(options.normalization or "none")
        #: the blank, and the characters
        self.labels: tuple[str, ...] = (BLANK, *characters)
        self._index = {character: at for at, character in enumerate(self.labels)}
        self._loader = AudioLoader(extractor, options.max_seconds)

    @property
    def transcription(self) -> SpeechRecognition:
        """This task."""
        return self

    @property
    def window_tokens(self) -> int:
        """0, since a head reads the windows."""
        return 0

    def transcribe(self, recording: AudioFile, options: TranscriptionOptions) -> Transcribing:
        """Transcribe a recording of any length; see ``Transcription``."""
        unused = {
            "language": options.language,
            "prompt": options.prompt,
            "temperature": options.temperature,
            "task": options.task == "translate",
        }
        for name, given in unused.items():
            if given:
                raise RequestError(
                    "the model writes the characters that it hears and does not use it",
                    place=name,
                    hint="Leave it out, or use a Whisper",
                )
        return transcribe_frames(recording, self._loader, self.labels, self.options.max_seconds)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Check the recording of an example, and encode its transcript; see ``Task.encode``.

        Characters that are not in the vocabulary have no target.
        """
        seconds = self.options.max_seconds
        recording = short_recording_of(example, number, self._loader.rate, seconds)
        text = transcript(example, number) if train or is_given(example, "text") else ""
        targets = [self._index[each] for each in text if each in self._index]
        return EncodedExample(
            number=number,
            input_ids=(),
            select=range(len(targets)),
            targets=targets,
            media=partial(self._loader.features, recording),
            positions=self._loader.positions(recording),
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the negative log-likelihood summed over the transcripts, a scalar.

        A transcript with more characters than frames can't be aligned, and counts nothing.

        Args:
            hidden: ``[recordings, frames, vocabulary]``, or ``[frames, vocabulary]`` of one. Frames
                after the end are certainly blank, which changes nothing.
        """
        log_probs = _of_batch(head(hidden)).float().log_softmax(-1).transpose(0, 1)
        frames, count, _ = log_probs.shape
        return F.ctc_loss(
            log_probs,
            batch.targets,
            (frames,) * count,
            batch.selected,
            reduction="sum",
            zero_infinity=True,
        )

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of characters."""
        return float(batch.targets.numel())

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[str]:
        """Return the transcript of each recording, given ``[(recordings,) frames, vocabulary]``."""
        best = _of_batch(head(hidden)).argmax(-1).tolist()
        return [text_of_frames(frames, self.labels) for frames in best]

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[str]) -> Evaluation:
        """Return word and character error rate, ``wer`` and ``cer``."""
        require_any(examples)
        sums = self._counts(examples, decoded).sum(0)
        return Evaluation({name: float(value) for name, value in _rates(sums).items()})

    def prediction(self, example: Example, decoded: str) -> dict[str, Any]:
        """Return ``{"text"}``."""
        return {"text": decoded}

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return the transcript."""
        return prediction["text"] or "(none)"

    def outcome(self, decoded: str) -> Outcome:
        """Return the characters of the transcript."""
        return Outcome(tuple(map(ord, decoded)))

    def confidence(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a transcript is no choice among labels."""

    def errors(self, examples: Sequence[Example], decoded: Sequence[str]) -> list[ErrorExample]:
        """Return the examples with a wrong word, with their word error rate."""
        counts = self._counts(examples, decoded)
        return [
            ErrorExample(display_text(example), transcript(example, number), text, rate, _ERROR)
            for number, (example, text, rate) in enumerate(
                zip(examples, decoded, _rates(counts)["wer"], strict=True), start=1
            )
            if rate
        ]

    def label_choices(self, examples: Sequence[Example], decoded: Sequence[Any]) -> None:
        """Return ``None``: a transcript is no label."""

    def statistics(self, examples: Sequence[Example], decoded: Sequence[str]) -> ExampleStatistics:
        """Return errors and numbers of words and characters of each example."""
        return ExampleStatistics(self._counts(examples, decoded), _rates, _MEANING)

    def _counts(self, examples: Sequence[Example], decoded: Sequence[str]) -> Array:
        """Return what ``_MEANING`` names for each example, ``[examples, 4]`` float64."""
        pairs = [
            (transcript(example, number), text)
            for number, (example, text) in enumerate(zip(examples, decoded, strict=True), start=1)
        ]
        counts = [word_errors(self._clean(wanted), self._clean(text)) for wanted, text in pairs]
        return np.array(counts, dtype=float).reshape(-1, 4)


def _of_batch(logits: Tensor) -> Tensor:
    """Return logits with a first dimension for recordings."""
    return logits if logits.dim() == 3 else logits.unsqueeze(0)


def _check_unused(options: TaskOptions) -> None:
    """Reject settings of other tasks, and of models that write tokens."""
    if options.class_weights is not None:
        raise RecipeError("transcripts have no class weights", place="task.class_weights")
    for name in ("language", "speech_task", "timestamps", "num_beams"):
        if getattr(options, name) != type(options).model_fields[name].default:
            raise RecipeError(
                "a model that writes a character per frame does not use it",
                place=f"task.{name}",
                hint="Remove it, or use a Whisper",
            )


def _rates(sums: Array) -> dict[str, Array]:
    return {
        "wer": ratio(sums[..., 0], sums[..., 1]),
        "cer": ratio(sums[..., 2], sums[..., 3]),
    }
