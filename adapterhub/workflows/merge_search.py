"""Search for the weights of a blend on a file of examples."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.manifest import DataSource
from adapterhub.composition import compose
from adapterhub.composition.weight_search import BOUNDS, BUDGET, L1, optimize_weights
from adapterhub.data.splits import fingerprint
from adapterhub.workflows.compose import WeightSearch, write_composition
from adapterhub.workflows.open_adapter import open_engine
from adapterhub.workflows.score import score
from adapterhub.workflows.stored_examples import examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.composition import MergeMethod
    from adapterhub.engine.loaded_adapter import LoadedAdapter
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
) -> tuple[tuple[Parent, ...], WeightSearch]:
    """Find the weights that minimize the loss of a blend on a few examples.

    The backbone is loaded once; each of ``budget`` candidates only replaces the adapter's
    tensors. The parents' own weights are not used. The file is read as the first parent's recipe
    reads its data.

    Returns:
        The parents with the weights found, and a record of the search.

    Raises:
        RecipeError: when the adapters can't be blended with negative weights.
        DataError: naming file and example.
        BackboneError: when the backbone can't be loaded.
    """
    adapters = [parent.artifact.weights for parent in parents]
    # fails before the backbone is loaded where a subtraction is not possible
    compose(adapters, [-1.0] * len(adapters), method, head_from=head_from)
    loaded = _load_blend(parents, method, workspace, head_from, device)
    examples = examples_for(parents[0].manifest, path, fields=fields, limit=limit)
    numbers = count(1)

    def loss(weights: Sequence[float]) -> float:
        candidate = compose(adapters, weights, method, head_from=head_from)
        # weights in the engine are known by their digest
        digest = f"{_NAME} {next(numbers)}"
        artifact = replace(loaded.artifact, digest=digest, weights=candidate)
        return score(loaded.local.exchange(_NAME, artifact), examples)["loss"]

    found = optimize_weights(loss, len(parents), budget=budget, seed=seed)
    data = DataSource(
        fingerprint=fingerprint(examples), num_examples=len(examples), origin=examples.origin
    )
    weighted = tuple(replace(p, weight=w) for p, w in zip(parents, found.weights, strict=True))
    return weighted, WeightSearch(data, budget, seed, BOUNDS, L1, found.loss)


def _load_blend(
    parents: Sequence[Parent],
    method: MergeMethod,
    workspace: Path,
    head_from: int | None,
    device: str | None,
) -> LoadedAdapter:
    """Load the blend with equal weights, whose tensors have the shapes of every candidate."""
    equal = [replace(parent, weight=1.0 / len(parents)) for parent in parents]
    write_composition(workspace / _NAME, _NAME, equal, method, head_from=head_from)
    artifact = read_artifact(workspace / _NAME)
    return open_engine(artifact, device=device).load(artifact, name=_NAME)
