"""Speech recognition by an encoder-decoder that writes transcripts, such as Whisper."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.field_mapping import display_text
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError, RecipeError, RequestError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.fields import place_of
from adapterhub.tasks.generating import GeneratingTask, answer_error
from adapterhub.tasks.preprocessors import AudioLoader
from adapterhub.tasks.recordings import short_recording_of
from adapterhub.tasks.transcripts import error_rates, transcript
from adapterhub.tasks.whisper_prompts import WhisperPrompts
from adapterhub.tasks.whisper_windows import WhisperWindows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.data.audio import AudioFile
    from adapterhub.tasks.attribution import AttributionInput
    from adapterhub.tasks.base import HeadKind
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.generating import AnswerScore
    from adapterhub.tasks.predictions import ErrorExample
    from adapterhub.tasks.preprocessors import SpeechProcessor
    from adapterhub.tasks.text_scores import TextScores
    from adapterhub.tasks.transcription import Transcribing, TranscriptionOptions


class WhisperRecognition(GeneratingTask):
    """Examples have ``audio``, an ``AudioFile``, and ``text``, its transcript.

    The decoder reads language, task and whether timestamps follow, as the recipe says, and learns
    to write the transcript after them.
    """

    name: str = "speech-recognition"
    pipeline_tag: str = "automatic-speech-recognition"
    # peft has no type for recordings, and needs none
    peft_task_type: str = ""
    head: HeadKind = "speech_seq2seq"
    reads_fields: bool = True
    instruction: str = ""
    target_frame: None = None

    def __init__(self, processor: SpeechProcessor, options: TaskOptions) -> None:
        """Set up the task.

        Raises:
            RecipeError: When the backbone has no such language or task, or a setting can't be used.
        """
        # not the base class: a transcript has a window for its context
        self.tokenizer, self.options = processor.tokenizer, options
        _check_unused(options)
        self._prompts = prompts = WhisperPrompts(processor)
        try:
            prompts.check_task(options.speech_task)
            self.language = (
                prompts.default_language
                if options.language is None
                else prompts.language_code(options.language)
            )
        except RequestError as error:
            place = {"task": "speech_task"}.get(error.place, error.place)
            raise RecipeError(error.problem, place=f"task.{place}", hint=error.hint) from None
        extractor: Any = processor.feature_extractor
        self._loader = AudioLoader(extractor, options.max_seconds)
        self._windows = WhisperWindows(prompts, extractor, num_beams=options.num_beams or 1)
        self._normalization = options.normalization or (
            "english" if self.language == "en" else "basic"
        )
        self.stop_ids = frozenset({prompts.end})
        self.stop_strings = ()

    @property
    def generation(self) -> WhisperRecognition:
        """This task."""
        return self

    @property
    def transcription(self) -> WhisperRecognition:
        """This task."""
        return self

    @property
    def window_tokens(self) -> int:
        """KV-cache tokens of a window with the longest transcript."""
        return self._windows.num_positions + self._prompts.num_positions

    def transcribe(self, recording: AudioFile, options: TranscriptionOptions) -> Transcribing:
        """Transcribe a recording of any length; see ``Transcription``."""
        task = options.task or self.options.speech_task
        self._prompts.check_task(task)
        given = options.language
        return self._windows.transcribe(
            recording,
            options,
            language=self.language if given is None else self._prompts.language_code(given),
            task=task,
            timestamps=options.timestamps or self.options.timestamps,
        )

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode a recording with its transcript, which is required; see ``Task.encode``."""
        if self.language is None:
            raise RecipeError(
                "this backbone writes many languages, and transcripts are learned in one",
                place="task.language",
                hint="Name the language of the recordings, such as en",
            )
        recording = short_recording_of(example, number, self._loader.rate, self.options.max_seconds)
        timestamps = self.options.timestamps
        targets = self._prompts.target_ids(transcript(example, number))
        if timestamps:
            end = self._prompts.timestamp(recording.seconds())
            targets = [self._prompts.first_timestamp, *targets, end]
        targets.append(self._prompts.end)
        prompt = self._prompts.prompt(
            self.language, self.options.speech_task, timestamps=timestamps
        )
        room = self._prompts.num_positions - len(prompt)
        if len(targets) > room:
            raise DataError(
                f"the transcript has {len(targets)} tokens, the decoder writes at most {room}",
                place=place_of(number, "text"),
                hint="Divide the recording",
            )
        return EncodedExample(
            number=number,
            input_ids=prompt,
            select=range(len(targets)),
            targets=targets,
            media=partial(self._loader.features, recording),
            positions=self._loader.positions(recording),
        )

    def errors(
        self, examples: Sequence[Example], decoded: Sequence[AnswerScore]
    ) -> list[ErrorExample]:
        """Return all examples, with the loss of their transcripts."""
        return [
            answer_error(display_text(each), transcript(each, at), score)
            for at, (each, score) in enumerate(zip(examples, decoded, strict=True), start=1)
        ]

    def messages(self, example: Example, number: int) -> list[Message]:
        """Raise an error; a recording is no message."""
        raise DataError("recordings are transcribed, not answered", place=place_of(number, "audio"))

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Raise an error; see ``messages``."""
        return self.messages(example, number), ""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Raise an error; see ``messages``."""
        raise DataError("recordings are transcribed, not answered", place="messages")

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Return word and character error rate of transcripts, ``wer`` and ``cer``."""
        wanted = [transcript(each, at) for at, each in enumerate(examples, start=1)]
        return error_rates(wanted, texts, self._normalization, self.language or "")

    def attribution_input(self, messages: Sequence[Message], answer: str) -> AttributionInput:
        """Raise an error; see ``TextGeneration.attribution_input``."""
        raise DataError("a transcript can't be explained by words of an input")


def _check_unused(options: TaskOptions) -> None:
    """Reject settings of other tasks that generate."""
    defaults = TaskOptions()
    for name, hint in (
        ("class_weights", "Remove it"),
        ("system_prompt", "Remove it"),
        ("max_new_tokens", "Remove it: a window's transcript may be as long as the decoder writes"),
        ("vocabulary", "Remove it: the tokens are the backbone's"),
    ):
        if getattr(options, name) != getattr(defaults, name):
            raise RecipeError("a Whisper does not use it", place=f"task.{name}", hint=hint)
