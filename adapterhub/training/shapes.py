"""Conversion of what a file holds to the fields of a task, where its columns say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.dataset import FileSource, HubSource
from adapterhub.data.readers import read_examples
from adapterhub.data.shapes.table import SHAPES, converted, recognized
from adapterhub.data.sources import expand
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.span_tags import tag_spans
from adapterhub.tasks.table import TASKS, entry_of, fields_of, missing_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.data.dataset import Dataset
    from adapterhub.data.shapes.table import Shape
    from adapterhub.training.recipe import DataSection, Paths

#: Shapes that are converted even if an example has the fields of the task: rejected annotations
#: must be left out.
_ALWAYS = ("prodigy",)


def sources_of(section: DataSection, where: Paths) -> list[FileSource] | list[HubSource]:
    """Return each file, folder or Hub split that a key of a recipe names.

    Raises:
        DataError: when no file matches a pattern.
    """
    paths = (where,) if isinstance(where, str) else where
    if not paths:
        raise RecipeError("names no file", place="data")
    if section.hub is not None:
        hub = section.hub
        return [HubSource(hub.id, each, hub.revision, hub.config) for each in paths]
    # the name of a shape says nothing of the file
    file_format: Any = "auto" if section.format in SHAPES else section.format
    options = section.columns, section.encoding, section.delimiter
    files = [FileSource(path, file_format, *options) for path in paths]
    return [each for file in files for each in expand(file, Path())]


def in_task_fields(source: Dataset, section: DataSection, task: str) -> Dataset:
    """Return examples under the fields of a task, where their shape is known and the task needs it.

    Examples that have the fields of the task stay as they are, and so do those whose columns a
    recipe maps.

    Raises:
        DataError: when the shape is none that the task trains on, or naming an example without it.
    """
    shape = SHAPES.get(section.format) or _recognized(source, section, task)
    if shape is None:
        return source
    found = converted(source, shape)
    if not found.examples:
        raise DataError("has no accepted annotation", place=source.name)
    if entry_of(task).label_field == "tags" and "spans" in found.examples[0]:
        found = _with_tags(found)
    if not section.fields and missing_fields(task, _given(found.examples[0])):
        raise _unfit(source, shape, task)
    return found


def fitting_tasks(section: DataSection) -> list[str]:
    """Return the names of the tasks that the examples of a recipe fit, as they are or converted.

    Raises:
        DataError: when there is none, naming the columns and the shape.
    """
    source = read_examples(sources_of(section, section.train)[0])
    first = source.examples[0]
    fitting = [name for name in TASKS if _fits(source, section, name)]
    if fitting:
        return sorted(fitting, key=lambda name: -_used_fields(name, first))
    shape = SHAPES.get(section.format) or recognized(source)
    what = f"holds {shape.title}, which" if shape else "has columns that"
    raise DataError(
        f"{what} no task trains on yet; columns: {', '.join(list(first)[:12]) or '(none)'}",
        place=source.name,
        hint="Map columns in data.fields and name the task: task.name=… data.fields.text=COLUMN",
    )


def _fits(source: Dataset, section: DataSection, task: str) -> bool:
    sample = source.select(range(1))
    try:
        found = in_task_fields(sample, section, task)
    except DataError:
        return False
    columns = _given(found.examples[0])
    mapped = [name for name, column in section.fields.items() if column in columns]
    return not missing_fields(task, [*columns, *mapped])


def _used_fields(task: str, example: Mapping[str, Any]) -> int:
    """Return how many columns of an example are fields of a task."""
    needed, optional = fields_of(task)
    return len({*needed, *optional} & set(_given(example)))


def _recognized(source: Dataset, section: DataSection, task: str) -> Shape | None:
    if section.fields:
        return None
    shape = recognized(source)
    if shape is None or shape.name in _ALWAYS:
        return shape
    return shape if missing_fields(task, _given(source.examples[0])) else None


def _with_tags(dataset: Dataset) -> Dataset:
    def change(example: dict[str, Any], index: int) -> dict[str, Any]:
        return tag_spans(example.get("text"), example.get("spans") or (), dataset.place(index))

    return dataset.map(change)


def _given(example: Mapping[str, Any]) -> list[str]:
    return [name for name, value in example.items() if value is not None]


def _unfit(source: Dataset, shape: Shape, task: str) -> DataError:
    fields = "; or ".join(" and ".join(each) for each in entry_of(task).alternatives)
    columns = ", ".join(list(source.examples[0])[:12])
    return DataError(
        f"holds {shape.title}, which {task} does not train on",
        place=source.name,
        hint=f"{task} takes {fields}: map columns in data.fields, or choose another task. "
        f"Columns: {columns}",
    )
