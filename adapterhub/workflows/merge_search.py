"""Weights of a blend found on a file of examples, on one loaded backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.manifest import DataSource
from adapterhub.composition import compose
from adapterhub.composition.weight_search import BOUNDS, BUDGET, L1, optimize_weights
from adapterhub.data.fingerprint import fingerprint
from adapterhub.errors import DataError
from adapterhub.workflows.compose import Search, write_composition
from adapterhub.workflows.open_adapter import open_session
from adapterhub.workflows.score import examples_for, score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.composition import MergeMethod
    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.workflows.compose import Parent

_NAME = "candidate"


def search_weights(
    parents: Sequence[Parent],
    method: MergeMethod,
    path: Path,
    *,
    workspace: Path,
    head_from: int | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    budget: int = BUDGET,
    seed: int = 0,
    device: str | None = None,
) -> tuple[tuple[Parent, ...], Search]:
    """Find the weights with which a blend has the least loss on a handful of rows.

    The backbone is loaded once; for each candidate only the adapter's tensors are replaced.

    Args:
        parents: two or more; their own weights do not count.
        method: by which they are blended.
        path: of the rows, read as the first parent's recipe reads its data.
        workspace: a folder for what is not kept.
        head_from: index of the parent whose head is taken.
        fields: the task's field to the file's.
        limit: only the first rows.
        budget: how many weights are tried.
        seed: of the search.
        device: the first GPU where there is one, else the CPU.

    Returns:
        The parents with the weights found, and how they were found.

    Raises:
        RecipeError: when the adapters can't be blended by weights of either sign.
        DataError: naming file and row.
        BackboneError: when the backbone can't be loaded.
    """
    adapters = [parent.artifact.weights for parent in parents]
    # what can't be subtracted is refused before the backbone is loaded
    compose(adapters, [-1.0] * len(adapters), method, head_from=head_from)
    session, loaded = _start(parents, method, workspace, head_from, device)
    rows = _rows(loaded, parents[0], path, fields, limit)

    def loss(weights: Sequence[float]) -> float:
        candidate = compose(adapters, weights, method, head_from=head_from)
        loaded.model.load_tensors(candidate.tensors, _NAME)
        return score(session, loaded, rows)["loss"]

    found = optimize_weights(loss, len(parents), budget=budget, seed=seed)
    data = DataSource(fingerprint=fingerprint(rows), num_examples=len(rows), origin=rows.origin)
    weighted = tuple(replace(p, weight=w) for p, w in zip(parents, found.weights, strict=True))
    return weighted, Search(data, budget, seed, BOUNDS, L1, found.loss)


def _start(
    parents: Sequence[Parent],
    method: MergeMethod,
    workspace: Path,
    head_from: int | None,
    device: str | None,
) -> tuple[Session, LoadedAdapter]:
    """Load the blend of equal parts, whose tensors have the shapes of every other one."""
    equal = [replace(parent, weight=1.0 / len(parents)) for parent in parents]
    write_composition(workspace / _NAME, _NAME, equal, method, head_from=head_from)
    artifact = read_artifact(workspace / _NAME)
    session = open_session(artifact, device=device)
    return session, session.load(artifact, name=_NAME)


def _rows(
    loaded: LoadedAdapter,
    first: Parent,
    path: Path,
    fields: Mapping[str, str] | None,
    limit: int | None,
) -> Dataset:
    rows = examples_for(replace(loaded, manifest=first.manifest), path, fields=fields, limit=limit)
    if not len(rows):
        raise DataError("holds no rows", place=str(path))
    return rows
