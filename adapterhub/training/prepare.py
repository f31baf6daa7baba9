"""Read, split and encode the data of a recipe, checked before any weight is loaded."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.clean_labels import clean_labels, similar_labels
from adapterhub.data.dataset import Dataset, FileSource, HubSource, concatenate
from adapterhub.data.field_mapping import ANSWER_FIELDS, map_fields
from adapterhub.data.labels import count_labels, require_two_labels
from adapterhub.data.media import load_media
from adapterhub.data.readers import read_examples
from adapterhub.data.shapes.table import SHAPES
from adapterhub.data.splits import (
    count_repeated,
    drop_duplicates,
    limit,
    limit_per_label,
    require_examples,
    split_examples,
)
from adapterhub.errors import DataError
from adapterhub.tasks.bio import OUTSIDE, check_tags, repair
from adapterhub.tasks.conversations import unused_keys
from adapterhub.tasks.table import entry_of, fields_of, missing_fields
from adapterhub.tasks.transcripts import infer_vocabulary
from adapterhub.tasks.words import infer_segmentation
from adapterhub.training.shapes import in_task_fields, sources_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Task
    from adapterhub.training.recipe import DataSection, Paths, Recipe, TaskSection


#: Labels times validation examples, whose probabilities are kept in memory for the report.
MAX_PROBABILITIES = 100_000_000


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Examples ready to be encoded.

    Args:
        splits: Examples of ``train``, ``validation`` and, where there is one, ``test``.
        label_counts: Number of training examples of each label, in the order of the head's
            outputs; empty where the task has no labels.
        dropped: Number of duplicate training examples that were removed.
        leaked: Number of examples of each other split whose text is also in training.
        notes: What was changed in the values, a line for each kind of change.
    """

    splits: Mapping[str, Dataset]
    label_counts: Mapping[str, int]
    dropped: int
    leaked: Mapping[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSplit:
    """Examples of a split that the task can learn from or be scored on.

    Args:
        examples: Examples, or windows of them where the task reads windows; empty for ``train``,
            whose examples are not read again.
        encoded: Encoded form of each example or window, in a file where they are many.
        skipped: Number of examples or windows with nothing to learn from.
    """

    examples: Sequence[Mapping[str, Any]]
    encoded: Sequence[EncodedExample]
    skipped: int


def prepare_data(recipe: Recipe) -> PreparedData:
    """Read, map, clean and split the data of a recipe.

    Raises:
        DataError: naming file, example or split.
        RecipeError: naming the recipe key.
    """
    section, task = recipe.data, recipe.task.name
    train = load_examples(section, task, section.train)
    dropped = 0
    if section.drop_duplicates:
        train, dropped = drop_duplicates(train, text_fields(train))
    splits = _split(section, task, train)
    seed = section.split.seed
    splits["train"] = limit_per_label(splits["train"], section.limit_per_label, seed=seed)
    splits["train"] = limit(splits["train"], section.limit_train, seed=seed)
    splits["validation"] = limit(splits["validation"], section.limit_validation, seed=seed)
    for name, examples in splits.items():
        require_examples(examples, name)
    others = {name: examples for name, examples in splits.items() if name != "train"}
    counts = _label_counts(recipe.task, splits["train"], others)
    notes = [note for each in splits.values() for note in each.notes] + similar_labels(counts)
    most = max(1, MAX_PROBABILITIES // max(len(counts), 1))
    if len(splits["validation"]) > most:
        notes.append(
            f"{most:,} of {len(splits['validation']):,} validation examples are used: each has a "
            f"probability for each of {len(counts):,} labels"
        )
        splits["validation"] = limit(splits["validation"], most, seed=seed)
    return PreparedData(
        splits=splits,
        label_counts=counts,
        dropped=dropped,
        leaked=count_leaks(splits),
        notes=tuple(dict.fromkeys(notes)),
    )


def with_segmentation(recipe: Recipe, data: PreparedData) -> tuple[Recipe, str]:
    """Return the recipe with the segmentation of its training tokens, and a message for the user.

    Plain text must be cut as the tokens were, so the segmentation is stored with the adapter. A
    task without tokens, or a recipe that sets it, is returned unchanged.
    """
    if recipe.task.segmentation or entry_of(recipe.task.name).label_field != "tags":
        return recipe, ""
    found = infer_segmentation(example["tokens"] for example in data.splits["train"].examples)
    message = ""
    if found is None:
        found = "unspaced"
        message = (
            "warning: the training tokens are words of a script without spaces; plain text will be "
            "cut into characters, so give tokens in predictions, or train on characters"
        )
    elif found != "words":
        message = f"plain text will be cut as the training tokens are: {found}"
    task = recipe.task.model_copy(update={"segmentation": found})
    return recipe.model_copy(update={"task": task}), message


def with_vocabulary(
    recipe: Recipe, data: PreparedData, *, writes_tokens: bool
) -> tuple[Recipe, str]:
    """Return the recipe with the characters of its transcripts, and a message for the user.

    They are the outputs of the head, so they are stored with the adapter. A task without
    transcripts, or a recipe that sets them, is returned unchanged.

    Args:
        recipe: Recipe.
        data: Its examples.
        writes_tokens: Whether the backbone writes tokens of its own, as Whisper does.
    """
    uses = "vocabulary" in entry_of(recipe.task.name).settings and not writes_tokens
    if recipe.task.vocabulary or not uses:
        return recipe, ""
    found = infer_vocabulary(data.splits["train"].examples)
    task = recipe.task.model_copy(update={"vocabulary": found})
    message = f"{len(found)} characters in transcripts: {found}"
    return recipe.model_copy(update={"task": task}), message


def load_examples(section: DataSection, task: str, where: Paths) -> Dataset:
    """Read the files or Hub split of a recipe under the task's field names.

    Raises:
        DataError: naming file and example.
        RecipeError: naming the key.
    """
    return concatenate(*(_load_source(section, task, each) for each in sources_of(section, where)))


def _load_source(section: DataSection, task: str, origin: FileSource | HubSource) -> Dataset:
    required, optional = fields_of(task)
    source = in_task_fields(read_examples(origin), section, task)
    entry = entry_of(task)

    def check(example: dict[str, Any], index: int) -> None:
        if missing := missing_fields(task, example):
            raise _missing_fields(section, task, source, index, missing)
        number = source.numbers[index]
        with _located(source, index, number):
            entry.check_example(example, number)

    examples = map_fields(source, section.fields, required=required, optional=optional, check=check)
    label, media = entry.label_field, entry.media_field
    if label:
        examples = clean_labels(examples, label, tagged=label == "tags")
    unused = unused_keys(examples.examples) if "messages" in optional else []
    if unused:
        names = ", ".join(unused)
        examples = examples.noting(f"{examples.name}: keys of messages that are not used: {names}")
    if not media:
        return examples
    beside = Path(origin.path).expanduser() if isinstance(origin, FileSource) else None
    return load_media(examples, media, beside, entry.media_file())


def _missing_fields(
    section: DataSection, task: str, source: Dataset, index: int, missing: Sequence[str]
) -> DataError:
    """Return the error of an example without one of several sets of fields."""
    mapping = {name: section.fields[name] for name in missing if name in section.fields}
    try:
        map_fields(source.select([index]), mapping, required=missing, optional=())
    except DataError as error:
        error.hint = f"{error.hint}. The task takes {_alternatives(task)}"
        return error
    return DataError("a field is missing", place=source.place(index))


def _alternatives(task: str) -> str:
    """Return the sets of fields that a task accepts, as a phrase."""
    return "; or ".join(" and ".join(fields) for fields in entry_of(task).alternatives)


def load_more_examples(
    section: DataSection, task: str, path: Path, fields: Mapping[str, str] | None
) -> Dataset:
    """Read another file as a recipe reads its data; ``fields`` replaces the recipe's field mapping.

    Raises:
        DataError: naming file and example.
    """
    changes: dict[str, Any] = {
        "hub": None,
        "format": section.format if section.format in ("conll", *SHAPES) else "auto",
        "fields": dict(section.fields if fields is None else fields),
    }
    return load_examples(section.model_copy(update=changes), task, str(path))


def _split(section: DataSection, task: str, train: Dataset) -> dict[str, Dataset]:
    """Return the splits, held out from ``train`` where the recipe has no files for them."""
    splits: dict[str, Dataset] = {}
    seed = section.split.seed
    if section.test is not None:
        splits["test"] = load_examples(section, task, section.test)
    elif section.split.test:
        train, splits["test"] = split_examples(
            train, held_out=section.split.test, seed=seed + 1, key_fields=text_fields(train)
        )
    if section.validation is not None:
        splits["validation"] = load_examples(section, task, section.validation)
    else:
        train, splits["validation"] = split_examples(
            train, held_out=section.split.validation, seed=seed, key_fields=text_fields(train)
        )
    return {"train": train, **splits}


def _label_counts(
    section: TaskSection, train: Dataset, others: Mapping[str, Dataset]
) -> dict[str, int]:
    field = entry_of(section.name).label_field
    if not field:
        return {}
    tagged = field == "tags"
    sequence, mend = tagged or section.multi_label, repair if tagged else None
    counts = count_labels(train, others, field=field, sequence=sequence, repair=mend)
    require_two_labels(counts)
    if tagged:
        check_tags(counts)
        return {OUTSIDE: 0} | counts if OUTSIDE in counts else counts
    return counts


def count_leaks(splits: Mapping[str, Dataset]) -> dict[str, int]:
    """Return how many examples of each other split have a text that is also in training."""
    train = splits["train"]
    fields = text_fields(train)
    return {
        name: count_repeated(train, examples, fields)
        for name, examples in splits.items()
        if name != "train"
    }


def text_fields(dataset: Dataset) -> list[str]:
    """Return the fields by which examples count as equal: all but the label or answer."""
    names = dict.fromkeys(name for example in dataset.examples for name in example)
    return [name for name in names if name not in ANSWER_FIELDS]


def encode_split(task: Task, data: PreparedData, split: str) -> EncodedSplit:
    """Encode the examples of a split, leaving out those with nothing to learn from.

    Raises:
        DataError: naming file and example, or the split of which nothing is left.
    """
    # torch, which a recipe's errors come without
    from adapterhub.data.encoded_store import store_encoded

    source, train = data.splits[split], split == "train"
    kept: list[Mapping[str, Any]] = []
    skipped = 0

    def encodings() -> Iterator[EncodedExample]:
        nonlocal skipped
        for window, encoded in _encoded_windows(task, source, train=train):
            if encoded is None:
                skipped += 1
                continue
            if not train:
                kept.append(window)
            yield encoded

    found = store_encoded(encodings())
    if not found:
        raise DataError(
            f"no example of the {split} split has anything to learn from",
            place=source.origin,
            hint="Raise task.max_length",
        )
    return EncodedSplit(kept, found, skipped)


def _encoded_windows(
    task: Task, source: Dataset, *, train: bool
) -> Iterator[tuple[Mapping[str, Any], EncodedExample | None]]:
    for index, example in enumerate(source.examples):
        number = source.numbers[index]
        with _located(source, index, 1):
            windows = task.windows(example) if task.reads_windows else [example]
        for window in windows:
            with _located(source, index, number):
                yield window, task.encode(window, number, train=train)


def encode_example(
    task: Task, source: Dataset, index: int, *, train: bool
) -> EncodedExample | None:
    """Encode one example whole; see ``Task.encode``.

    Raises:
        DataError: naming file and example.
    """
    number = source.numbers[index]
    with _located(source, index, number):
        return task.encode(source.examples[index], number, train=train)


def label_log_odds(data: PreparedData) -> list[float]:
    """Return each label's log odds in the training examples: the initial bias of a fresh head.

    Most labels are absent from most texts. A head that starts at one half for all of them gets
    the same gradient from every example, which saturates an encoder's pooler before it has
    separated any two texts. Source: Lin et al. 2017, "Focal Loss for Dense Object Detection",
    arXiv:1708.02002, section 4.1, here with counts as shares.
    """
    total = len(data.splits["train"])
    # add-one smoothing: no share is 0 or 1
    shares = [(count + 1) / (total + 2) for count in data.label_counts.values()]
    return [math.log(share / (1 - share)) for share in shares]


@contextmanager
def _located(source: Dataset, index: int, number: int) -> Iterator[None]:
    """Add the file to errors that name an example only by ``number``."""
    try:
        yield
    except DataError as error:
        field = error.place.removeprefix(f"example {number}")
        place = f"{source.place(index)}{field}"
        raise DataError(error.problem, place=place, hint=error.hint) from None
