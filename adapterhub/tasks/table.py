"""Table of tasks: fields, settings, serving route and construction. A new task is one entry."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from adapterhub.data.media import MediaFile
    from adapterhub.tasks.audio_classification import AudioClassification
    from adapterhub.tasks.base import BackboneKind, Pool, Preprocessor, Task, TaskOptions
    from adapterhub.tasks.dialogue import Dialogue
    from adapterhub.tasks.image_classification import ImageClassification
    from adapterhub.tasks.instructed import InstructionTask
    from adapterhub.tasks.multi_label import MultiLabelClassification
    from adapterhub.tasks.question_answering import QuestionAnswering
    from adapterhub.tasks.ranking import Ranking
    from adapterhub.tasks.relation_extraction import RelationExtraction
    from adapterhub.tasks.source_and_target import SourceAndTargetTask
    from adapterhub.tasks.speech_recognition import SpeechRecognition
    from adapterhub.tasks.text_classification import TextClassification
    from adapterhub.tasks.token_classification import TokenClassification
    from adapterhub.tasks.whisper_recognition import WhisperRecognition

    # the type checker compares every class with the interface
    _IMPLEMENTATIONS: tuple[type[Task], ...] = (
        AudioClassification,
        Dialogue,
        ImageClassification,
        InstructionTask,
        MultiLabelClassification,
        QuestionAnswering,
        Ranking,
        RelationExtraction,
        SourceAndTargetTask,
        SpeechRecognition,
        TextClassification,
        TokenClassification,
        WhisperRecognition,
    )

#: Route of the server that serves a task: labels, spans, answers, the order of documents, text
#: for an example, a conversation, or transcripts; empty where none serves it.
Route = Literal["classify", "tag", "answer", "rerank", "generate", "chat", "transcribe", ""]


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """Arguments of a task's construction; see ``build_task``."""

    preprocessor: Preprocessor
    kind: BackboneKind
    labels: Sequence[str]
    options: TaskOptions
    label_counts: Mapping[str, int] | None

    @property
    def pool(self) -> Pool:
        """Token that has attended to all that the head needs: only a decoder's last one."""
        return "first" if self.kind == "encoder" else "last"


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One task of the table.

    Args:
        build: Constructs the task.
        alternatives: Sets of fields, one of which a training example must have in full.
        default_metric: Metric watched where a recipe names none, and whether larger is better.
        route: Route of the server for this task.
        optional: Further fields of an example.
        label_field: Field that holds the label or the tags; empty for a task without labels.
        settings: Settings of a recipe that this task uses and not every task does.
        media_field: Field that holds a file, named after what it holds; empty where examples are
            texts.
        best: Best value of the metrics that are better when larger.
        check: Function ``module:name`` of this package that checks an example before it is
            encoded.
    """

    build: Callable[[TaskInputs], Task]
    alternatives: tuple[tuple[str, ...], ...]
    default_metric: tuple[str, bool]
    route: Route
    optional: tuple[str, ...] = ()
    label_field: Literal["label", "tags", ""] = ""
    settings: tuple[str, ...] = ()
    media_field: Literal["image", "audio", ""] = ""
    best: float = 1.0
    check: str = ""

    def check_example(self, example: Mapping[str, Any], number: int) -> None:
        """Check an example as far as that needs no tokenizer.

        Raises:
            DataError: naming example and field.
        """
        if self.check:
            _attribute(self.check)(example, number)

    def media_file(self) -> type[MediaFile]:
        """Return the class of the files that ``media_field`` holds."""
        from adapterhub.data.audio import AudioFile
        from adapterhub.data.images import ImageFile

        return {"image": ImageFile, "audio": AudioFile}[self.media_field]


def build_task(
    name: str,
    preprocessor: Preprocessor,
    kind: BackboneKind,
    labels: Sequence[str],
    options: TaskOptions,
    label_counts: Mapping[str, int] | None = None,
) -> Task:
    """Build a task of the table; balanced class weights need ``label_counts``.

    Raises:
        RecipeError: when there is no such task, or it does not fit the rest.
    """
    check_settings(name, options)
    _check_kind(name, kind)
    return entry_of(name).build(TaskInputs(preprocessor, kind, labels, options, label_counts))


def check_settings(name: str, options: TaskOptions) -> None:
    """Reject a setting that this task does not use.

    Raises:
        RecipeError: naming the setting.
    """
    from adapterhub.tasks.base import TaskOptions

    used, defaults = entry_of(name).settings, TaskOptions()
    for setting in sorted({each for entry in TASKS.values() for each in entry.settings}):
        if setting not in used and getattr(options, setting) != getattr(defaults, setting):
            raise RecipeError(f"{name} does not use this setting", place=f"task.{setting}")


def _check_kind(name: str, kind: BackboneKind) -> None:
    """Reject a task of texts on a backbone for images, and so on."""
    needs, found = _READS[entry_of(name).media_field], reads(kind)
    if needs == found:
        return
    raise RecipeError(
        f"{name} needs a backbone that reads {needs}, this one reads {found}",
        place="backbone.name",
    )


#: What a task reads, in messages, by its field for files.
_READS = {"": "texts", "image": "images", "audio": "recordings"}


def reads(kind: BackboneKind) -> str:
    """Return what a kind of backbone reads, in messages: texts, images or recordings."""
    return {"vision": "images", "audio": "recordings"}.get(kind, "texts")


def entry_of(name: str) -> TaskEntry:
    """Return a task's entry of the table.

    Raises:
        RecipeError: when there is no such task.
    """
    if name not in TASKS:
        raise RecipeError(
            f"there is no task {name!r}", place="task.name", hint=did_you_mean(name, TASKS)
        )
    return TASKS[name]


def served_by(name: str, route: Route) -> bool:
    """Return whether a route serves a task; no route serves an unknown one."""
    return name in TASKS and TASKS[name].route == route


def reads_pairs(name: str) -> bool:
    """Return whether a task scores a pair of texts, such as a query and a document."""
    return name in TASKS and "text_pair" in TASKS[name].optional


def fields_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the required and the optional fields of training examples."""
    entry = entry_of(name)
    first, *others = entry.alternatives
    needed = tuple(field for field in first if all(field in other for other in others))
    either = [field for fields in entry.alternatives for field in fields if field not in needed]
    return needed, (*dict.fromkeys(either), *entry.optional)


def missing_fields(name: str, present: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that a training example lacks, given the ``present`` ones.

    Where a task accepts several sets of fields, the one nearest to complete counts.
    """
    there = set(present)
    alternatives = entry_of(name).alternatives
    if any(there.issuperset(fields) for fields in alternatives):
        return ()
    nearest = max(alternatives, key=lambda fields: len(there.intersection(fields)))
    return tuple(field for field in nearest if field not in there)


def _attribute(location: str) -> Callable[..., Any]:
    """Import an attribute of this package, given as ``module:name``."""
    module, _, name = location.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"adapterhub.tasks.{module}"), name)
    return found


def _classifier(location: str) -> Callable[[TaskInputs], Task]:
    """Return the builder of a task that chooses one label per example or word."""

    def build(inputs: TaskInputs) -> Task:
        make, counts = _attribute(location), inputs.label_counts
        arguments = inputs.preprocessor, inputs.labels, inputs.options
        return make(*arguments, pool=inputs.pool, label_counts=counts)

    return build


def _text_classification(inputs: TaskInputs) -> Task:
    if not inputs.options.multi_label:
        return _classifier("text_classification:TextClassification")(inputs)
    make = _attribute("multi_label:MultiLabelClassification")
    return make(inputs.preprocessor, inputs.labels, inputs.options, pool=inputs.pool)


def _speech_recognition(inputs: TaskInputs) -> Task:
    from adapterhub.tasks.preprocessors import SpeechProcessor

    where = "speech_recognition:SpeechRecognition"
    if isinstance(inputs.preprocessor, SpeechProcessor):
        where = "whisper_recognition:WhisperRecognition"
    return _attribute(where)(inputs.preprocessor, inputs.options)


def _question_answering(inputs: TaskInputs) -> Task:
    make = _attribute("question_answering:QuestionAnswering")
    return make(inputs.preprocessor, inputs.options, null=inputs.pool)


def _dialogue(inputs: TaskInputs) -> Task:
    if inputs.kind != "decoder":
        raise RecipeError(
            f"dialogue needs a decoder, this backbone is an {inputs.kind}", place="task.name"
        )
    return _attribute("dialogue:Dialogue")(inputs.preprocessor, inputs.options)


def _by_instruction(name: str) -> Callable[[TaskInputs], Task]:
    """Return the builder of a task that generates text from the fields of an example."""
    locations = {
        "decoder": "instructed:instruction_task",
        "encoder-decoder": "source_and_target:source_and_target_task",
    }

    def build(inputs: TaskInputs) -> Task:
        if inputs.kind not in locations:
            raise RecipeError(
                f"{name} needs a backbone that generates text, this one is an {inputs.kind}",
                place="task.name",
            )
        make = _attribute(locations[inputs.kind])
        return make(name, inputs.preprocessor, inputs.options)

    return build


#: Settings of tasks that choose one of their labels.
_CALIBRATED = ("calibrate", "temperature")
#: Settings of tasks that write a text for the fields of an example.
_WRITTEN = ("instruction", "source_language", "target_language", "num_beams")
_LOSS = ("loss", False)
#: Settings of transcripts.
_SPOKEN = ("language", "speech_task", "timestamps", "normalization")

TASKS: Mapping[str, TaskEntry] = {
    "text-classification": TaskEntry(
        build=_text_classification,
        alternatives=(("text", "label"),),
        default_metric=("accuracy", True),
        route="classify",
        optional=("text_pair",),
        label_field="label",
        settings=("multi_label", "threshold", "out_of_scope", *_CALIBRATED),
    ),
    "token-classification": TaskEntry(
        build=_classifier("token_classification:TokenClassification"),
        alternatives=(("tokens", "tags"),),
        default_metric=("entity_f1", True),
        route="tag",
        label_field="tags",
        settings=("segmentation", *_CALIBRATED),
    ),
    "image-classification": TaskEntry(
        build=_classifier("image_classification:ImageClassification"),
        alternatives=(("image", "label"),),
        default_metric=("accuracy", True),
        route="classify",
        label_field="label",
        settings=("image_size", *_CALIBRATED),
        media_field="image",
    ),
    "audio-classification": TaskEntry(
        build=_classifier("audio_classification:AudioClassification"),
        alternatives=(("audio", "label"),),
        default_metric=("accuracy", True),
        route="classify",
        label_field="label",
        settings=("max_seconds", *_CALIBRATED),
        media_field="audio",
    ),
    "speech-recognition": TaskEntry(
        build=_speech_recognition,
        alternatives=(("audio", "text"),),
        default_metric=("wer", False),
        route="transcribe",
        settings=("max_seconds", "vocabulary", *_SPOKEN, "num_beams"),
        media_field="audio",
    ),
    "relation-extraction": TaskEntry(
        build=_classifier("relation_extraction:RelationExtraction"),
        alternatives=(("text", "label"),),
        default_metric=("relation_f1", True),
        route="classify",
        label_field="label",
        settings=_CALIBRATED,
    ),
    "ranking": TaskEntry(
        build=_classifier("ranking:Ranking"),
        alternatives=(("history", "candidate", "label"),),
        default_metric=("auc", True),
        route="rerank",
        optional=("group", "gain"),
        label_field="label",
        settings=_CALIBRATED,
    ),
    "question-answering": TaskEntry(
        build=_question_answering,
        alternatives=(("context", "question", "answers"),),
        default_metric=("f1", True),
        route="answer",
        settings=("stride", "max_answer_tokens", "unanswerable"),
        best=100.0,
    ),
    "dialogue": TaskEntry(
        build=_dialogue,
        alternatives=(("messages",), ("prompt", "response")),
        default_metric=_LOSS,
        route="chat",
        optional=("input", "system", "tools", "functions"),
        settings=("learned_turns",),
        check="conversations:check_conversation",
    ),
    "translation": TaskEntry(
        build=_by_instruction("translation"),
        alternatives=(("source", "target"),),
        default_metric=_LOSS,
        route="generate",
        settings=_WRITTEN,
    ),
    "summarization": TaskEntry(
        build=_by_instruction("summarization"),
        alternatives=(("document", "summary"), ("document", "summaries")),
        default_metric=_LOSS,
        route="generate",
        settings=_WRITTEN,
    ),
    "generative-question-answering": TaskEntry(
        build=_by_instruction("generative-question-answering"),
        alternatives=(("question", "answers"),),
        default_metric=_LOSS,
        route="generate",
        optional=("context",),
        settings=(*_WRITTEN, "unanswerable"),
    ),
}
