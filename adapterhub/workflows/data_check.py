"""A look at data before a run: what was recognized, lengths, duplicates, leaks, what is learned."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from adapterhub.backbones.architecture import backbone_kind, read_preprocessor
from adapterhub.backbones.sources import cached_backbone
from adapterhub.data.field_mapping import answer_text, display_text
from adapterhub.evaluation.duplicates import leak, split_facts
from adapterhub.tasks.base import LANGUAGE_HEADS
from adapterhub.tasks.table import TASKS, build_task, entry_of
from adapterhub.training.prepare import encode_example, prepare_data
from adapterhub.training.recipe_file import apply_override, parse_recipe
from adapterhub.training.shapes import fitting_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from adapterhub.data.dataset import Dataset
    from adapterhub.data.packing import EncodedExample
    from adapterhub.evaluation.duplicates import Leak, SplitFacts
    from adapterhub.tasks.base import Task
    from adapterhub.training.prepare import PreparedData
    from adapterhub.training.recipe import Recipe

#: Backbones whose tokenizer measures a file that comes without a recipe: of a task that chooses,
#: and of one that writes.
DEFAULT_BACKBONES = ("minilm-l6", "smollm2-135m-instruct")
#: Longest example that is measured, in tokens.
_LONGEST = 10**7


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a rendered example, and whether its tokens are learned."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as the model reads it: its place, and its text in pieces."""

    place: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the examples of a split in tokens.

    Args:
        measured: Number of measured examples, spread evenly over the split.
        median: Median length.
        high: Length that 95 of 100 examples do not exceed.
        longest: Greatest length.
        cut: Number of measured examples that are longer than ``task.max_length`` and lose a part.
        unlearned: Number of measured examples with nothing to learn from.
    """

    measured: int
    median: int
    high: int
    longest: int
    cut: int
    unlearned: int


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What a recipe's data is, before anything is trained.

    Args:
        task: Name of the task.
        backbone: Backbone whose tokenizer measured the lengths; empty without one.
        max_length: ``task.max_length`` of the recipe.
        notes: What was recognized or changed, a line each.
        splits: Summary of each split.
        labels: Number of training examples, or words, of each label.
        leaks: Examples of other splits that are in training too.
        lengths: Lengths by split; empty without a tokenizer.
        examples: Examples as the model reads them.
    """

    task: str
    backbone: str
    max_length: int
    notes: tuple[str, ...]
    splits: tuple[SplitFacts, ...]
    labels: dict[str, int]
    leaks: tuple[Leak, ...]
    lengths: dict[str, Lengths]
    examples: tuple[RenderedExample, ...]


def recipe_of_file(path: str, overrides: Sequence[str], task: str = "") -> Recipe:
    """Return a recipe for a file of examples, of the first task that its fields fit.

    Args:
        path: File, folder or pattern.
        overrides: ``key.path=value`` each.
        task: Name of the task; found where empty.

    Raises:
        DataError: when no task has the fields, naming the columns.
    """
    document: dict[str, Any] = {
        "name": "check",
        "backbone": {"name": DEFAULT_BACKBONES[0]},
        "task": {"name": task or next(iter(TASKS))},
        "data": {"train": path},
    }
    for override in overrides:
        apply_override(document, override)
    if not task and not any(each.startswith("task.name=") for each in overrides):
        document["task"]["name"] = fitting_tasks(parse_recipe(document).data)[0]
    if not any(each.startswith("backbone.name=") for each in overrides):
        generates = entry_of(document["task"]["name"]).route in ("generate", "chat")
        document["backbone"]["name"] = DEFAULT_BACKBONES[1 if generates else 0]
    return parse_recipe(document)


def check_data(
    recipe: Recipe, *, cache: Path | None = None, measured: int = 2000, shown: int = 5
) -> DataCheck:
    """Read the data of a recipe as training does, and return what it is.

    Args:
        recipe: Recipe of the run.
        cache: Root of the backbone cache.
        measured: Most examples of a split whose length is measured.
        shown: Number of training examples to render.

    Raises:
        RecipeError: naming the key at fault.
        DataError: naming file and example.
    """
    data = prepare_data(recipe)
    train = data.splits["train"]
    measure = _measure(recipe, data, cache)
    lengths: dict[str, Lengths] = {}
    examples: tuple[RenderedExample, ...] = ()
    if measure is not None:
        lengths = {name: _lengths(measure, each, measured) for name, each in data.splits.items()}
        examples = tuple(_rendered(measure, train, at) for at in _spread(len(train), shown))
    return DataCheck(
        task=recipe.task.name,
        backbone=recipe.backbone.name if measure is not None else "",
        max_length=recipe.task.max_length,
        notes=data.notes,
        splits=tuple(split_facts(name, each) for name, each in data.splits.items()),
        labels=dict(data.label_counts),
        leaks=tuple(
            leak(name, each, train) for name, each in data.splits.items() if name != "train"
        ),
        lengths=lengths,
        examples=examples,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Measure:
    """A task, the same without a limit on lengths, and their tokenizer."""

    task: Task
    unlimited: Task
    tokenizer: Any
    max_length: int


def _measure(recipe: Recipe, data: PreparedData, cache: Path | None) -> _Measure | None:
    """Return what encodes the examples of a recipe.

    ``None`` where the backbone is not on this machine, or examples are images or recordings.
    """
    section, options = recipe.backbone, recipe.task
    path = cached_backbone(section.name, revision=section.revision, cache=cache)
    if path is None or entry_of(options.name).media_field:
        return None
    tokenizer: Any = read_preprocessor(path)
    patient = deepcopy(tokenizer)
    patient.model_max_length = _LONGEST
    unlimited = options.model_copy(update={"max_length": _LONGEST})
    kind, labels, counts = backbone_kind(path), list(data.label_counts), data.label_counts
    return _Measure(
        build_task(options.name, tokenizer, kind, labels, options, counts),
        build_task(options.name, patient, kind, labels, unlimited, counts),
        tokenizer,
        options.max_length,
    )


def _lengths(measure: _Measure, dataset: Dataset, most: int) -> Lengths:
    task, unlimited, limit = measure.task, measure.unlimited, measure.max_length
    indices = _spread(len(dataset), most)
    found = [encode_example(unlimited, dataset, at, train=True) for at in indices]
    sizes = [len(each) if each is not None else 0 for each in found]
    # a task that reads windows loses nothing
    cut = 0 if task.reads_windows else sum(size > limit for size in sizes)
    unlearned = sum(
        each is None or (len(each) > limit and _nothing_left(task, dataset, at))
        for at, each in zip(indices, found, strict=True)
    )
    median, high = np.percentile(sizes, [50, 95])
    return Lengths(len(sizes), int(median), int(high), max(sizes), cut, unlearned)


def _nothing_left(task: Task, dataset: Dataset, index: int) -> bool:
    return not task.reads_windows and encode_example(task, dataset, index, train=True) is None


def _rendered(measure: _Measure, dataset: Dataset, index: int) -> RenderedExample:
    task = measure.task
    example = dataset.examples[index]
    encoded = encode_example(task, dataset, index, train=True) if not task.reads_windows else None
    if encoded is None or task.head not in LANGUAGE_HEADS:
        answer = answer_text(example)
        pieces = [Piece(display_text(example), learned=False), Piece(answer, learned=True)]
    else:
        pieces = list(_pieces(task, measure.tokenizer, encoded))
    return RenderedExample(dataset.place(index), tuple(pieces))


def _pieces(task: Task, tokenizer: Any, encoded: EncodedExample) -> Iterator[Piece]:
    """Yield the text of an example in runs of tokens that are learned and that are not."""
    if task.head == "seq2seq_lm":
        yield Piece(tokenizer.decode(list(encoded.input_ids)), learned=False)
        yield Piece(tokenizer.decode(list(encoded.targets)), learned=True)
        return
    # each target follows the position that predicts it
    targets = {at + 1: token for at, token in zip(encoded.select, encoded.targets, strict=True)}
    tokens = [*encoded.input_ids, None]
    run: list[int] = []
    learned: bool | Literal["start"] = "start"
    for at, token in enumerate(tokens):
        found = targets.get(at, token)
        if found is None:
            continue
        if learned != (at in targets) and run:
            yield Piece(tokenizer.decode(run), learned=learned is True)
            run = []
        learned = at in targets
        run.append(found)
    if run:
        yield Piece(tokenizer.decode(run), learned=learned is True)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many indices, evenly spaced."""
    return sorted({int(at) for at in np.linspace(0, count - 1, min(count, most))})
