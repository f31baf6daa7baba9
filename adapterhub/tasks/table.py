"""The table of tasks: what each reads and how it is built. A new task is a line here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from adapterhub.tasks.base import BackboneKind, Example, Preprocessor, Task, TaskOptions


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """All that a task is built from; see ``build_task``."""

    preprocessor: Preprocessor
    kind: BackboneKind
    labels: Sequence[str]
    options: TaskOptions
    label_counts: Mapping[str, int] | None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The preprocessor of a backbone of texts."""
        tokenizer: Any = self.preprocessor
        return tokenizer

    @property
    def processor(self) -> BaseImageProcessor:
        """The preprocessor of a backbone of images."""
        processor: Any = self.preprocessor
        return processor


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A line of the table.

    Args:
        build: makes the task.
        alternatives: sets of fields, of which a training example needs one in full.
        optional: fields that an example may have besides.
        default_metric: watched where a recipe names none, and whether larger is better.
        count_labels: how often each label is in training examples, or ``None`` where the task
            has no labels.
        reads: settings of a recipe that this task reads and not every task does.
        image_field: the field that holds an image; empty where examples are texts.
        top: the best value of those of its metrics that are better when larger.
    """

    build: Callable[[TaskRequest], Task]
    alternatives: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...]
    default_metric: tuple[str, bool]
    count_labels: Callable[[Iterable[Example]], dict[str, int]] | None
    reads: tuple[str, ...] = ()
    image_field: str = ""
    top: float = 1.0


def build_task(
    name: str,
    preprocessor: Preprocessor,
    kind: BackboneKind,
    labels: Sequence[str],
    options: TaskOptions,
    label_counts: Mapping[str, int] | None = None,
) -> Task:
    """Build a task.

    Args:
        name: in the table.
        preprocessor: the backbone's: a fast tokenizer, or an image processor.
        kind: of backbone.
        labels: names in the order of the head's outputs; empty for a task without labels.
        options: settings from the recipe.
        label_counts: as ``count_labels`` returns them; needed for balanced class weights.

    Raises:
        RecipeError: when there is no such task, or it does not fit the rest.
    """
    _check_settings(name, options)
    _check_kind(name, kind)
    return entry_of(name).build(TaskRequest(preprocessor, kind, labels, options, label_counts))


def _check_settings(name: str, options: TaskOptions) -> None:
    """Refuse a setting that the task would not heed."""
    from adapterhub.tasks.base import TaskOptions

    read, defaults = entry_of(name).reads, TaskOptions()
    for setting in sorted({each for entry in TASKS.values() for each in entry.reads}):
        if setting not in read and getattr(options, setting) != getattr(defaults, setting):
            raise RecipeError(f"{name} does not read this setting", place=f"task.{setting}")


def _check_kind(name: str, kind: BackboneKind) -> None:
    """Refuse a task of texts on a backbone of images, and the other way round."""
    if bool(entry_of(name).image_field) == (kind == "vision"):
        return
    needs, found = ("images", "texts") if kind != "vision" else ("texts", "images")
    raise RecipeError(
        f"{name} needs a backbone that reads {needs}, this one reads {found}",
        place="backbone.name",
    )


def entry_of(name: str) -> TaskEntry:
    """Return a task's line of the table.

    Raises:
        RecipeError: when there is no such task.
    """
    if name not in TASKS:
        raise RecipeError(
            f"there is no task {name!r}", place="task.name", hint=did_you_mean(name, TASKS)
        )
    return TASKS[name]


def fields_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields that every training example needs, and those that it may have.

    Raises:
        RecipeError: when there is no such task.
    """
    entry = entry_of(name)
    first, *others = entry.alternatives
    needed = tuple(field for field in first if all(field in other for other in others))
    either = [field for fields in entry.alternatives for field in fields if field not in needed]
    return needed, (*dict.fromkeys(either), *entry.optional)


def missing_fields(name: str, present: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that a training example with the ``present`` ones still needs.

    Where a task reads one of several sets of fields, the set nearest to complete counts.

    Raises:
        RecipeError: when there is no such task.
    """
    there = set(present)
    alternatives = entry_of(name).alternatives
    if any(there.issuperset(fields) for fields in alternatives):
        return ()
    nearest = max(alternatives, key=lambda fields: len(there.intersection(fields)))
    return tuple(field for field in nearest if field not in there)


def count_labels(name: str, examples: Iterable[Example]) -> dict[str, int]:
    """Return how often each label is in training examples, in the order of the head's outputs.

    Whole numbers come by value, names by alphabet, and the BIO tag ``O`` before all others.
    Empty for a task without labels.

    Raises:
        DataError: naming example and field, when an example has no label.
        RecipeError: when there is no such task.
    """
    count = entry_of(name).count_labels
    return {} if count is None else count(examples)


def _count_texts(examples: Iterable[Example]) -> dict[str, int]:
    from adapterhub.data.labels import sorted_labels
    from adapterhub.tasks.fields import required
    from adapterhub.tasks.labels import label_list, label_text

    counts = Counter(
        label_text(label, number, "label")
        for number, example in enumerate(examples, start=1)
        for label in label_list(required(example, "label", number), number, "label")
    )
    return {label: counts[label] for label in sorted_labels(counts)}


def _count_tags(examples: Iterable[Example]) -> dict[str, int]:
    from adapterhub.tasks.bio import OUTSIDE, check_tags, repair
    from adapterhub.tasks.fields import list_field
    from adapterhub.tasks.labels import label_text

    counts: Counter[str] = Counter()
    for number, example in enumerate(examples, start=1):
        tags = [label_text(tag, number, "tags") for tag in list_field(example, "tags", number)]
        counts.update(repair(tags))
    check_tags(counts)
    return {tag: counts[tag] for tag in sorted(counts, key=lambda tag: (tag != OUTSIDE, tag))}


def _text_classification(request: TaskRequest) -> Task:
    from adapterhub.tasks.multi_label import MultiLabelClassification
    from adapterhub.tasks.text_classification import TextClassification

    if not request.options.multi_label:
        return _labelling(request, TextClassification)
    return MultiLabelClassification(
        request.tokenizer, request.labels, request.options, pool=_side(request)
    )


def _ranking(request: TaskRequest) -> Task:
    from adapterhub.tasks.ranking import Ranking

    return _labelling(request, Ranking)


def _relation_extraction(request: TaskRequest) -> Task:
    from adapterhub.tasks.relation_extraction import RelationExtraction

    return _labelling(request, RelationExtraction)


def _image_classification(request: TaskRequest) -> Task:
    from adapterhub.tasks.image_classification import ImageClassification

    return ImageClassification(
        request.processor, request.labels, request.options, label_counts=request.label_counts
    )


def _token_classification(request: TaskRequest) -> Task:
    from adapterhub.tasks.token_classification import TokenClassification

    return TokenClassification(
        request.tokenizer,
        request.labels,
        request.options,
        read=_side(request),
        label_counts=request.label_counts,
    )


def _question_answering(request: TaskRequest) -> Task:
    from adapterhub.tasks.question_answering import QuestionAnswering

    return QuestionAnswering(request.tokenizer, request.options, null=_side(request))


def _dialogue(request: TaskRequest) -> Task:
    from adapterhub.tasks.dialogue import Dialogue

    return _generating(request, Dialogue, "dialogue")


def _translation(request: TaskRequest) -> Task:
    from adapterhub.tasks.translation import translation

    return _generating(request, translation, "translation")


def _summarization(request: TaskRequest) -> Task:
    from adapterhub.tasks.summarization import summarization

    return _generating(request, summarization, "summarization")


def _generative_question_answering(request: TaskRequest) -> Task:
    from adapterhub.tasks.generative_answers import generative_question_answering

    return _generating(request, generative_question_answering, "generative question answering")


def _side(request: TaskRequest) -> Literal["first", "last"]:
    """Return which token has seen what the head needs: a decoder's last one alone."""
    return "first" if request.kind == "encoder" else "last"


def _labelling(request: TaskRequest, make: Callable[..., Task]) -> Task:
    """Make a task that gives each example of texts a label."""
    return make(
        request.tokenizer,
        request.labels,
        request.options,
        pool=_side(request),
        label_counts=request.label_counts,
    )


def _generating(request: TaskRequest, make: Callable[..., Task], task: str) -> Task:
    """Make a task that generates texts, if the backbone can."""
    if request.kind != "decoder":
        raise RecipeError(
            f"{task} needs a backbone that generates text, this one is an encoder",
            place="task.name",
        )
    return make(request.tokenizer, request.options)


#: Settings of tasks that choose one of their labels.
_CALIBRATED = ("calibrate", "temperature")

TASKS: Mapping[str, TaskEntry] = {
    "text-classification": TaskEntry(
        build=_text_classification,
        alternatives=(("text", "label"),),
        optional=("text_pair",),
        default_metric=("accuracy", True),
        count_labels=_count_texts,
        reads=("multi_label", "threshold", "out_of_scope", *_CALIBRATED),
    ),
    "token-classification": TaskEntry(
        build=_token_classification,
        alternatives=(("tokens", "tags"),),
        optional=(),
        default_metric=("entity_f1", True),
        count_labels=_count_tags,
        reads=_CALIBRATED,
    ),
    "image-classification": TaskEntry(
        build=_image_classification,
        alternatives=(("image", "label"),),
        optional=(),
        default_metric=("accuracy", True),
        count_labels=_count_texts,
        reads=("image_size", *_CALIBRATED),
        image_field="image",
    ),
    "relation-extraction": TaskEntry(
        build=_relation_extraction,
        alternatives=(("text", "label"),),
        optional=(),
        default_metric=("relation_f1", True),
        count_labels=_count_texts,
        reads=_CALIBRATED,
    ),
    "ranking": TaskEntry(
        build=_ranking,
        alternatives=(("history", "candidate", "label"),),
        optional=("group", "gain"),
        default_metric=("auc", True),
        count_labels=_count_texts,
        reads=_CALIBRATED,
    ),
    "question-answering": TaskEntry(
        build=_question_answering,
        alternatives=(("context", "question", "answers"),),
        optional=(),
        default_metric=("f1", True),
        count_labels=None,
        reads=("stride", "max_answer_tokens", "unanswerable"),
        top=100.0,
    ),
    "dialogue": TaskEntry(
        build=_dialogue,
        alternatives=(("messages",), ("prompt", "response")),
        optional=("input", "system"),
        default_metric=("loss", False),
        count_labels=None,
    ),
    "translation": TaskEntry(
        build=_translation,
        alternatives=(("source", "target"),),
        optional=(),
        default_metric=("loss", False),
        count_labels=None,
        reads=("instruction",),
    ),
    "summarization": TaskEntry(
        build=_summarization,
        alternatives=(("document", "summary"), ("document", "summaries")),
        optional=(),
        default_metric=("loss", False),
        count_labels=None,
        reads=("instruction",),
    ),
    "generative-question-answering": TaskEntry(
        build=_generative_question_answering,
        alternatives=(("question", "answers"),),
        optional=("context",),
        default_metric=("loss", False),
        count_labels=None,
        reads=("instruction", "unanswerable"),
    ),
}
