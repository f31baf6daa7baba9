"""Merge registered adapters into a new version that records its lineage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.adapters.artifact import read_artifact, write_artifact
from adapterhub.adapters.manifest import Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import ALL_LINEAR, modules_to_save
from adapterhub.backbones.catalog import find_entry
from adapterhub.composition import compose
from adapterhub.errors import FingerprintMismatch, RecipeError
from adapterhub.refs import check_name
from adapterhub.registry.policy import trusted_folder
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.adapters.manifest import DataSource
    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.composition import MergeMethod
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Split of the manifest that holds the examples on which weights were searched.
EXAMPLES = "examples"


@dataclass(frozen=True, slots=True, eq=False)
class Parent:
    """An adapter in a composition; a negative weight subtracts."""

    ref: str
    artifact: Artifact
    weight: float

    @property
    def manifest(self) -> Manifest:
        """Manifest of the artifact."""
        return self.artifact.manifest


@dataclass(frozen=True, slots=True)
class WeightSearch:
    """Record of a search for weights, with the largest absolute weight and the L1 penalty."""

    data: DataSource
    budget: int
    seed: int
    bounds: float
    l1: float
    loss: float


def open_parents(registry: Registry, refs: Sequence[tuple[str, float]]) -> tuple[Parent, ...]:
    """Read adapters, given by reference and weight, for one backbone and one task.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a stored byte has changed.
        SignatureError: when the registry requires trusted signatures and one is missing.
        FingerprintMismatch: when the backbones differ.
        RecipeError: when the tasks differ.
    """
    parents = []
    for ref, weight in refs:
        version = registry.resolve(ref)
        artifact = read_artifact(trusted_folder(registry, version))
        parents.append(Parent(str(version.ref), artifact, weight))
    _check_compatible(parents)
    return tuple(parents)


def parent_index(registry: Registry, parents: Sequence[Parent], ref: str) -> int:
    """Return the index of the parent that a reference names.

    Raises:
        NotFoundError: when there is no such version.
        RecipeError: when it names no parent.
    """
    digest = registry.resolve(ref).digest
    for index, parent in enumerate(parents):
        if parent.artifact.digest == digest:
            return index
    raise RecipeError(
        f"{ref} is not one of the composed adapters",
        place="composition.head_from",
        hint=f"Name one of: {', '.join(parent.ref for parent in parents)}",
    )


def store_composition(
    registry: Registry,
    name: str,
    parents: Sequence[Parent],
    method: MergeMethod,
    *,
    head_from: int | None = None,
    search: WeightSearch | None = None,
) -> Version:
    """Compose adapters and store the result as the next version of ``name``.

    Equal adapters, weights and settings give the same digest, and so the same version. Head and
    labels are those of ``parents[head_from]``.

    Raises:
        RefError: when the name is malformed.
        RecipeError: when the method can't merge these adapters.
        RegistryError: when the registry can't be written.
    """
    check_name(name)
    with registry.staging() as staging:
        target = staging / "composed"
        write_composition(target, name, parents, method, head_from=head_from, search=search)
        return registry.put(target, name)


def write_composition(
    folder: Path,
    name: str,
    parents: Sequence[Parent],
    method: MergeMethod,
    *,
    head_from: int | None = None,
    search: WeightSearch | None = None,
) -> str:
    """Write the artifact of a composition and return its digest; see ``store_composition``."""
    if head_from is None:
        _check_labels(parents)
    weights = compose(
        [parent.artifact.weights for parent in parents],
        [parent.weight for parent in parents],
        method,
        head_from=head_from,
    )
    head = parents[head_from or 0]
    composition = _composition(parents, method, head_from, search)
    manifest = _manifest(parents, weights, head, composition, search)
    return write_artifact(
        folder,
        tensors=weights.tensors,
        adapter_config=_config(parents[0], weights, head),
        manifest=manifest,
        card=_card(manifest, name, parents),
    )


def _check_compatible(parents: Sequence[Parent]) -> None:
    first = parents[0]
    for parent in parents[1:]:
        expected, found = (each.manifest.backbone.fingerprint for each in (parent, first))
        if expected != found:
            raise FingerprintMismatch(parent.ref, expected, found)
        if parent.manifest.task != first.manifest.task:
            raise RecipeError(
                f"{first.ref} is for {first.manifest.task}, "
                f"{parent.ref} for {parent.manifest.task}",
                place="composition.adapters",
                hint="Compose adapters for the same task",
            )


def _check_labels(parents: Sequence[Parent]) -> None:
    for parent in parents[1:]:
        if parent.manifest.labels != parents[0].manifest.labels:
            raise RecipeError(
                f"the heads of {parents[0].ref} and {parent.ref} have different labels",
                place="composition.head_from",
                hint="Choose the head of one adapter: --head-from REF",
            )


def _composition(
    parents: Sequence[Parent],
    method: MergeMethod,
    head_from: int | None,
    search: WeightSearch | None,
) -> dict[str, Any]:
    """Return the ``composition`` section of the manifest's recipe."""
    document: dict[str, Any] = {
        "method": method.name,
        "adapters": [
            {"ref": parent.ref, "digest": parent.artifact.digest, "weight": parent.weight}
            for parent in parents
        ],
        **method.settings(),
    }
    if head_from is not None:
        document["head_from"] = parents[head_from].ref
    if search is not None:
        data = {"fingerprint": search.data.fingerprint, "rows": search.data.num_examples}
        data["origin"] = search.data.origin
        document["search"] = {**asdict(search), "data": data}
    return document


def _manifest(
    parents: Sequence[Parent],
    weights: AdapterWeights,
    head: Parent,
    composition: dict[str, Any],
    search: WeightSearch | None,
) -> Manifest:
    first = parents[0].manifest
    seed = composition.get("seed") if search is None else search.seed
    unknown = {"metrics", "recipe"}
    unknown |= {"data"} if search is None else set()
    unknown |= {"seed"} if seed is None else set()
    unknown |= {"labels"} & set(head.manifest.unknown)
    for parent in parents:
        unknown |= {"backbone", "quantization"} & set(parent.manifest.unknown)
    return Manifest(
        task=first.task,
        labels=head.manifest.labels,
        backbone=first.backbone,
        quantization=first.quantization,
        adapter=weights.spec,
        trained_parameters=weights.num_parameters,
        backbone_parameters=first.backbone_parameters,
        recipe={
            "description": f"{composition['method']} of {_expression(parents)}",
            # needed to load it
            "backbone": first.recipe["backbone"],
            # the temperature was fitted to the predictions of one adapter
            "task": {**first.recipe["task"], "calibrate": False, "temperature": 1.0},
            "composition": composition,
        },
        data={} if search is None else {EXAMPLES: search.data},
        metrics=Metrics(),
        seed=seed,
        libraries={"peft": version_of("peft"), "torch": torch.__version__},
        parent=parents[0].artifact.digest,
        unknown=tuple(sorted(unknown)),
    )


def _config(first: Parent, weights: AdapterWeights, head: Parent) -> dict[str, Any]:
    """Return ``adapter_config.json`` of the result, based on the first adapter's."""
    config = dict(first.artifact.adapter_config)
    config["modules_to_save"] = list(modules_to_save(head.artifact.adapter_config)) or None
    if weights is first.artifact.weights:
        return config
    spec = weights.spec
    if not isinstance(spec, LoraSpec):
        return {**config, "num_virtual_tokens": spec.size, "prefix_projection": False}
    all_linear = spec.target_modules == (ALL_LINEAR,)
    return {
        **config,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha),
        "lora_dropout": spec.dropout,
        "target_modules": ALL_LINEAR if all_linear else list(spec.target_modules),
        "use_rslora": spec.rslora,
        "rank_pattern": dict(spec.rank_pattern),
        "alpha_pattern": dict(spec.alpha_pattern),
        "init_lora_weights": True,
    }


def _card(manifest: Manifest, name: str, parents: Sequence[Parent]) -> str:
    task_type = str(parents[0].artifact.adapter_config.get("task_type") or "")
    card = render_card(
        manifest, name=name, plot=None, license=_license(manifest), task_type=task_type
    )
    rows = "\n".join(
        f"| `{parent.ref}` | {parent.weight:g} | `{parent.artifact.digest}` |" for parent in parents
    )
    method = manifest.recipe["composition"]["method"]
    return (
        f"{card}\n## Composition\n\nThis adapter was not trained; it is the "
        f"`{method}` composition of:\n\n"
        f"| adapter | weight | digest |\n|---|---:|---|\n{rows}\n"
    )


def _license(manifest: Manifest) -> str | None:
    entry = find_entry(manifest.backbone.hub_id or manifest.backbone.name)
    return entry.license if entry else None


def _expression(parents: Sequence[Parent]) -> str:
    return ", ".join(
        parent.ref if parent.weight == 1.0 else f"{parent.ref}*{parent.weight:g}"
        for parent in parents
    )
