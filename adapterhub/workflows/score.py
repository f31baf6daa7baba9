"""Score a loaded adapter on a file of rows, with the bare backbone beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from adapterhub.training.evaluate import score_examples
from adapterhub.training.prepare import load_examples
from adapterhub.training.recipe import DataSection
from adapterhub.training.recipe_file import parse_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.tasks.base import GeneratingTask
    from adapterhub.tasks.text_scores import TextScores


@dataclass(frozen=True, slots=True)
class ScoresWithBase:
    """Metrics on the same rows.

    Args:
        base: of the bare backbone.
        adapter: of the adapter.
        signatures: how metrics of generated texts were computed, by name.
    """

    base: Mapping[str, float]
    adapter: Mapping[str, float]
    signatures: Mapping[str, str] = field(default_factory=dict)


def examples_for(
    loaded: LoadedAdapter,
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read a file as the adapter's recipe reads its data.

    Args:
        loaded: the adapter.
        path: of the file.
        fields: the task's field to the file's; the recipe's where not given.
        limit: only the first rows.

    Raises:
        DataError: naming file and row.
    """
    section = _data_section(loaded)
    changes: dict[str, Any] = {"hub": None}
    changes["format"] = "conll" if section.format == "conll" else "auto"
    if fields:
        changes["fields"] = dict(fields)
    rows = load_examples(section.model_copy(update=changes), loaded.manifest.task, str(path))
    return rows if limit is None else rows.select(list(range(min(limit, len(rows)))))


def _data_section(loaded: LoadedAdapter) -> DataSection:
    manifest = loaded.manifest
    if "recipe" in manifest.unknown:
        # nobody knows how its rows were read; the task's own names are as good a guess as any
        return DataSection(train="")
    return parse_recipe(manifest.recipe).data


def score(session: Session, loaded: LoadedAdapter, rows: Dataset) -> dict[str, float]:
    """Return the task's metrics of an adapter on rows.

    Raises:
        DataError: naming the row that can't be used.
    """
    return dict(
        score_examples(session.model(loaded.name), loaded.task, rows.examples).evaluation.metrics
    )


def score_with_base(
    session: Session, loaded: LoadedAdapter, rows: Dataset, *, generate: int = 0
) -> ScoresWithBase:
    """Return the metrics of an adapter on rows beside those of the bare backbone.

    Args:
        session: that the adapter is loaded in.
        loaded: the adapter.
        rows: with their answers.
        generate: of an adapter that generates, answer so many rows and score the text too.

    Raises:
        DataError: naming the row that can't be used.
    """
    adapter = score(session, loaded, rows)
    model = session.model(loaded.name)
    with model.disable_adapter():
        base = dict(score_examples(model, loaded.task, rows.examples).evaluation.metrics)
    if not generate or loaded.task.head != "causal_lm":
        return ScoresWithBase(base, adapter)
    said = {name: _generated(session, loaded, rows, generate, name) for name in (None, loaded.name)}
    own = said[loaded.name]
    return ScoresWithBase(
        {**base, **said[None].metrics}, {**adapter, **own.metrics}, own.signatures
    )


def _generated(
    session: Session, loaded: LoadedAdapter, rows: Dataset, count: int, name: str | None
) -> TextScores:
    task = cast("GeneratingTask", loaded.task)
    some = rows.examples[:count]
    asked = [task.question(row, number) for number, row in enumerate(some, start=1)]
    return task.score_texts(some, session.generate(name, asked, like=loaded.name))
