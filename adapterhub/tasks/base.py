"""Interface that every task implements for training, evaluation, prediction and serving."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias, final

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from adapterhub.errors import RecipeError
from adapterhub.tasks.words import Segmentation  # noqa: TC001  # pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from transformers import BaseImageProcessor, FeatureExtractionMixin, PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.attribution import AttributionInput, AttributionSource
    from adapterhub.tasks.conversations import Message
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Confidence, ErrorExample, LabelChoices, Scores
    from adapterhub.tasks.preprocessors import SpeechProcessor
    from adapterhub.tasks.text_scores import TextScores
    from adapterhub.tasks.transcription import Transcription

#: Head that the task puts on the backbone: the output layer of a decoder (``causal_lm``), of an
#: encoder-decoder (``seq2seq_lm``) or of one that reads recordings (``speech_seq2seq``), or a new
#: linear layer that is read once per text (``sequence``), per word (``token``), at every token that
#: may start or end an answer (``span``), once per image (``image``) or recording (``audio``), or at
#: every frame of a recording (``ctc``).
HeadKind = Literal[
    "causal_lm",
    "seq2seq_lm",
    "speech_seq2seq",
    "sequence",
    "token",
    "span",
    "image",
    "audio",
    "ctc",
]
#: Heads that are the backbone's own output layer, which no adapter stores.
LANGUAGE_HEADS: frozenset[HeadKind] = frozenset({"causal_lm", "seq2seq_lm", "speech_seq2seq"})
#: Heads that read an image or a recording.
MEDIA_HEADS: frozenset[HeadKind] = frozenset({"speech_seq2seq", "image", "audio", "ctc"})
#: Label of frames without a character.
BLANK = "<blank>"

#: Token that the head is read at: the first of a text or word, or the last.
Pool: TypeAlias = Literal["first", "last"]

#: Maps hidden states ``[selected, hidden]`` to logits ``[selected, classes]``.
Head: TypeAlias = "Callable[[Tensor], Tensor]"

#: Whether tokens attend to the whole text (``encoder``) or only backwards (``decoder``), a decoder
#: attends to an encoder's states (``encoder-decoder``), or the input is an image (``vision``) or a
#: recording (``audio``).
BackboneKind = Literal["encoder", "decoder", "encoder-decoder", "vision", "audio"]

#: Kinds of backbones that read images or recordings.
MEDIA_KINDS: frozenset[BackboneKind] = frozenset({"vision", "audio"})

#: Turns a backbone's input into tensors: texts into tokens, images into pixels, recordings into
#: samples or spectrograms.
Preprocessor: TypeAlias = (
    "PreTrainedTokenizerBase | BaseImageProcessor | FeatureExtractionMixin | SpeechProcessor"
)


#: What is done to transcripts before errors are counted.
Normalization = Literal["none", "basic", "english"]

#: Most beams of a search.
MAX_BEAMS = 16


class TaskOptions(BaseModel):
    """Settings of a task, as in the task section of a recipe.

    Args:
        name: Name of the task, e.g. ``text-classification``.
        max_length: Longest input in tokens; longer inputs are truncated.
        label_smoothing: Share of the target's probability that is spread over all classes.
        class_weights: ``balanced`` for inverse frequency, or a weight per label.
        max_new_tokens: Longest generated response, in tokens.
        system_prompt: First message of every conversation.
        learned_turns: Answers of a conversation that are learned: ``all``, or only the ``last``,
            which chat templates that drop earlier reasoning need.
        instruction: Instruction to the model; the task's own where empty.
        multi_label: Whether a text can have any number of labels; ``label`` is then a list.
        threshold: Smallest probability of a predicted label, with ``multi_label``.
        out_of_scope: Label of texts that no other label fits; metrics then separate the accuracy
            on the other labels from the recall of this one.
        stride: Tokens that two consecutive windows of a long context share.
        max_answer_tokens: Longest extracted answer, in tokens.
        unanswerable: Whether a question can have no answer in its context.
        calibrate: Whether to fit ``temperature`` on the validation examples after training.
        temperature: Divisor of the logits; above 1 lowers the confidence. The fitted value is
            stored here.
        segmentation: How a text becomes words: ``words`` at spaces and punctuation, ``unspaced``
            likewise with every letter of a script without spaces on its own, or ``characters``.
            Training infers it from the tokens of its examples where it is not given.
        source_language: Language of the source, as the tokenizer of a multilingual encoder-decoder
            names it (``en_XX``, ``eng_Latn``).
        target_language: Language of the target, likewise.
        num_beams: Beams of an encoder-decoder's generation; 1 takes the likeliest token each time.
            The backbone's own number where not given.
        image_size: Side in pixels that images are resized to; the backbone's own where not given.
        max_seconds: Longest part of a recording that is read, in seconds.
        vocabulary: Characters of transcripts. Training takes those of its examples where it is not
            given.
        language: Language of recordings, as a code (``en``) or an English name, for a backbone
            that reads it before a transcript.
        speech_task: Whether such a backbone transcribes, or translates to English.
        timestamps: Whether transcripts begin and end with the times of the speech.
        normalization: What is done to transcripts before errors are counted: ``none``, ``basic``
            (lower case, no punctuation) or ``english`` (also numbers as digits, and contractions
            in full), both as in OpenAI's evaluation of Whisper.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    max_length: PositiveInt = 512
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    max_new_tokens: PositiveInt = 64
    system_prompt: str = ""
    learned_turns: Literal["all", "last"] = "all"
    instruction: str = ""
    multi_label: bool = False
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    out_of_scope: str | None = None
    stride: PositiveInt = 128
    max_answer_tokens: PositiveInt = 30
    unanswerable: bool = False
    calibrate: bool = False
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    segmentation: Segmentation | None = None
    source_language: str | None = None
    target_language: str | None = None
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    image_size: Annotated[int, Field(ge=1, le=2048)] | None = None
    max_seconds: Annotated[float, Field(gt=0.0, le=120.0)] = 30.0
    vocabulary: str | None = None
    language: str | None = None
    speech_task: Literal["transcribe", "translate"] = "transcribe"
    timestamps: bool = False
    normalization: Normalization | None = None

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> TaskOptions:
        """Return the settings of a stored task section, with defaults for missing ones.

        Raises:
            RecipeError: naming the invalid setting.
        """
        try:
            return cls(**{name: section[name] for name in cls.model_fields if name in section})
        except ValidationError as error:
            found = error.errors()[0]
            place = ".".join(["task", *map(str, found["loc"])])
            raise RecipeError(f"{found['msg']}, not {found['input']!r}", place=place) from None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a task over a set of examples, and a record per class where it has classes."""

    metrics: Mapping[str, float]
    table: Sequence[Mapping[str, float | str]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """What a bias audit compares between an example and its counterfactual.

    Args:
        kind: ``labels`` of a text or its words, a ``ranking`` of candidates, or the ``answers``
            found in a context.
        change: Change of a prediction that is counted, as a phrase ("another label").
        plain_texts: Whether sentences without any markup are valid examples of the task.
    """

    kind: Literal["labels", "ranking", "answers"]
    change: str = ""
    plain_texts: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Discrete part of a raw prediction, and the probabilities behind it.

    Args:
        choice: Indices of the chosen labels, tags or tokens; equal for equal answers.
        probabilities: Probability of each label, ``[labels]``; ``None`` where the choice is not
            among labels.
    """

    choice: tuple[int, ...]
    probabilities: Tensor | None = None


class Task(Protocol):
    """One task: encoding of examples, loss, decoding, metrics, and analysis of predictions.

    A task holds the tokenizer or image processor, the labels and its options, never a model.
    """

    #: e.g. ``text-classification``
    name: str
    #: the Hub's name of the task, for model cards
    pipeline_tag: str
    #: name of peft's ``TaskType``, e.g. ``SEQ_CLS``
    peft_task_type: str
    head: HeadKind
    #: label names in the order of the head's outputs; empty without an own head
    labels: tuple[str, ...]
    #: whether training and scoring read all windows of an example, or only its start
    reads_windows: bool
    #: metric watched by default, and whether larger is better
    default_metric: tuple[str, bool]
    #: what a bias audit compares; ``None`` where none applies to predictions
    audit: AuditSpec | None

    @property
    def generation(self) -> TextGeneration | None:
        """Text generation by this task; ``None`` for a task with a head of its own."""

    @property
    def transcription(self) -> Transcription | None:
        """Transcription of recordings by this task; ``None`` for other tasks."""

    @property
    def attribution(self) -> AttributionSource | None:
        """What word attributions of its predictions are computed from; ``None`` without them."""

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample | None:
        """Encode an example; ``None`` where truncation leaves nothing to learn from.

        Args:
            example: Fields by the task's names.
            number: Number of the example in its source, from 1.
            train: Whether the label is required. If not, it is used where present, and the
                result has no targets where it is missing.

        Raises:
            DataError: naming example and field, when the example is invalid.
        """

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the loss summed over the batch, as a scalar.

        Args:
            head: Maps ``[n, hidden]`` to logits ``[n, classes]``.
            hidden: Hidden states ``[selected, hidden]``, in the order of ``batch.select``.
            batch: Batch with targets.
        """

    def weight(self, batch: PackedBatch) -> float:
        """Return the divisor of the summed loss: a count, or a sum of class weights."""

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Any]:
        """Return one raw prediction per example, small and on the CPU."""

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Score raw predictions against their examples (same order).

        Where ``reads_windows`` is set, examples are windows, adjacent for one example.

        Raises:
            DataError: when there are no examples, or one has no valid reference.
        """

    def windows(self, example: Example) -> list[Example]:
        """Split an example into windows of at most ``max_length`` tokens that cover all of it.

        A task whose predictions can't be merged returns the example itself.
        """

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the predictions for the windows of one example, in order.

        Raises:
            ValueError: when there are none, or more than the task can merge.
        """

    def prediction(self, example: Example, decoded: Any) -> dict[str, Any]:
        """Return a raw prediction as plain JSON values, as users and clients see it."""

    def summary(self, prediction: Mapping[str, Any]) -> str:
        """Return a prediction as one line of text."""

    def outcome(self, decoded: Any) -> Outcome:
        """Return the choice in a raw prediction, to compare two predictions."""

    def confidence(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Confidence | None:
        """Return the probability and correctness of each choice; ``None`` without choices."""

    def errors(self, examples: Sequence[Example], decoded: Sequence[Any]) -> list[ErrorExample]:
        """Return the wrongly predicted examples, in any order."""

    def label_choices(
        self, examples: Sequence[Example], decoded: Sequence[Any]
    ) -> LabelChoices | None:
        """Return expected and predicted labels; ``None`` unless there is one label per choice."""

    def statistics(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Scores | None:
        """Return what resampled metrics are computed from.

        ``None`` where only ``evaluate`` knows the metrics of a resample.
        """


@dataclass(frozen=True, slots=True)
class TargetFrame:
    """Special tokens around a target text of an encoder-decoder, such as its language and end."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class TextGeneration(Protocol):
    """Generation of answers in text: prompts, stop tokens and scoring."""

    options: TaskOptions
    #: instruction put before every example; may be empty
    instruction: str
    #: whether prompts are made from the fields of an example, not from conversations
    reads_fields: bool
    #: tokens that end generation
    stop_ids: frozenset[int]
    #: texts that end generation, and are no part of the answer
    stop_strings: tuple[str, ...]

    @property
    def target_frame(self) -> TargetFrame | None:
        """Special tokens around what an encoder-decoder writes; ``None`` on a decoder."""

    def messages(self, example: Example, number: int) -> list[Message]:
        """Return the messages of an example to answer, for ``prompt_ids``; no answer is needed.

        Raises:
            DataError: naming example and field, when the example is invalid.
        """

    def question_and_reference(self, example: Example, number: int) -> tuple[list[Message], str]:
        """Return the messages before the answer of an example, and its (first) reference answer.

        Raises:
            DataError: naming example and field, when the example has no answer.
        """

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens after which the answer starts.

        Raises:
            DataError: when the messages are invalid or too long.
        """

    def text_of(self, ids: Sequence[int]) -> str:
        """Return generated tokens as text, without special tokens and outer spaces."""

    def score_texts(self, examples: Sequence[Example], texts: Sequence[str]) -> TextScores:
        """Score generated texts by the reference answers of their examples (same order).

        Raises:
            DataError: when there are no texts, or an example has no answer.
        """

    def attribution_input(self, messages: Sequence[Message], answer: str) -> AttributionInput:
        """Return a conversation and its answer as input of an attribution.

        The words are those of the messages; the head is read where it predicts the answer.

        Raises:
            DataError: when the messages are invalid or the answer is empty.
        """


class UnsplitTask:
    """Base of tasks that read an example whole, truncated where it is too long."""

    reads_windows: bool = False

    @property
    def transcription(self) -> Transcription | None:
        """``None``: most tasks read texts."""
        return None

    @final
    def windows(self, example: Example) -> list[Example]:
        """Return the example itself."""
        return [example]

    @final
    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only prediction."""
        return join_predictions(answers)


def join_predictions(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the predictions for the windows of one example by concatenating their lists.

    Raises:
        ValueError: when there are none, or several with values other than lists.
    """
    if len(answers) == 1:
        return dict(answers[0])
    if not answers or not all(isinstance(v, list) for answer in answers for v in answer.values()):
        raise ValueError(f"{len(answers)} predictions can't be merged")
    return {key: [item for answer in answers for item in answer[key]] for key in answers[0]}
