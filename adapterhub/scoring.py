"""Score a loaded adapter on a file of rows, with the bare backbone beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.tasks.dialogue import generation_metrics
from adapterhub.training.evaluate import evaluate_rows
from adapterhub.training.prepare import load_rows
from adapterhub.training.recipe import DataSection
from adapterhub.training.recipe_file import parse_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapterhub.data.source import Rows
    from adapterhub.engine.session import LoadedAdapter, Session


def rows_for(
    loaded: LoadedAdapter,
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Rows:
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
    rows = load_rows(section.model_copy(update=changes), loaded.manifest.task, str(path))
    return rows if limit is None else rows.take(list(range(min(limit, len(rows)))))


def _data_section(loaded: LoadedAdapter) -> DataSection:
    manifest = loaded.manifest
    if "recipe" in manifest.unknown:
        # nobody knows how its rows were read; the task's own names are as good a guess as any
        return DataSection(train="")
    return parse_recipe(manifest.recipe).data


def score(session: Session, loaded: LoadedAdapter, rows: Rows) -> dict[str, float]:
    """Return the task's metrics of an adapter on rows.

    Raises:
        DataError: naming the row that can't be used.
    """
    return dict(evaluate_rows(session.model(loaded.name), loaded.task, rows.rows).metrics)


def score_beside_base(
    session: Session, loaded: LoadedAdapter, rows: Rows, *, generate: int = 0
) -> dict[str, dict[str, float]]:
    """Return the metrics of the bare backbone, as ``base``, and of the ``adapter``.

    Args:
        session: that the adapter is loaded in.
        loaded: the adapter.
        rows: with their answers.
        generate: of a dialogue adapter, answer so many rows and score the text too.

    Raises:
        DataError: naming the row that can't be used.
    """
    adapter = score(session, loaded, rows)
    model = session.model(loaded.name)
    with model.bare():
        base = dict(evaluate_rows(model, loaded.task, rows.rows).metrics)
    if generate and loaded.task.head == "causal_lm":
        base |= _generated(session, loaded, rows, generate, None)
        adapter |= _generated(session, loaded, rows, generate, loaded.name)
    return {"base": base, "adapter": adapter}


def _generated(
    session: Session, loaded: LoadedAdapter, rows: Rows, count: int, name: str | None
) -> dict[str, float]:
    task: Any = loaded.task
    pairs = [task.question_and_reference(row, n + 1) for n, row in enumerate(rows.rows[:count])]
    answers = session.generate(name, [messages for messages, _ in pairs], like=loaded.name)
    return generation_metrics([reference for _, reference in pairs], answers)
