"""Adapters of the registry made one, and the result stored as a version with its lineage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import torch
import yaml
from huggingface_hub import ModelCard

from adapterhub.adapters.artifact import read_artifact, write_artifact
from adapterhub.adapters.artifact_folder import CARD_NAME
from adapterhub.adapters.manifest import Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import ALL_LINEAR, modules_to_save
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

#: Split of the manifest that holds the rows on which weights were searched.
EXAMPLES = "examples"


@dataclass(frozen=True, slots=True, eq=False)
class Parent:
    """An adapter that goes into a composition.

    Args:
        ref: the version, e.g. ``topics@3``.
        artifact: of it, every byte checked.
        weight: how much of it; a negative one subtracts.
    """

    ref: str
    artifact: Artifact
    weight: float

    @property
    def manifest(self) -> Manifest:
        """Of the artifact."""
        return self.artifact.manifest


@dataclass(frozen=True, slots=True)
class Search:
    """How the weights were found, where nobody gave them.

    Args:
        data: rows that the loss is of.
        budget: how many weights were tried.
        seed: of the search.
        bounds: largest weight that was tried.
        l1: how much large weights were disliked.
        loss: of the rows, with the weights found.
    """

    data: DataSource
    budget: int
    seed: int
    bounds: float
    l1: float
    loss: float


def open_parents(registry: Registry, refs: Sequence[tuple[str, float]]) -> tuple[Parent, ...]:
    """Read the adapters that references name, all for one backbone and one task.

    Args:
        registry: that holds them.
        refs: reference and weight of each, 1 or more.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a byte of one is not as stored.
        SignatureError: when the registry asks for trusted signatures and one has none.
        FingerprintMismatch: when they are of different backbones.
        RecipeError: when they are of different tasks.
    """
    parents = []
    for ref, weight in refs:
        version = registry.resolve(ref)
        artifact = read_artifact(trusted_folder(registry, version))
        parents.append(Parent(str(version.ref), artifact, weight))
    _check_kinship(parents)
    return tuple(parents)


def index_of(registry: Registry, parents: Sequence[Parent], ref: str) -> int:
    """Return which of the parents a reference names.

    Raises:
        NotFoundError: when there is no such version.
        RecipeError: when it is none of the parents.
    """
    digest = registry.resolve(ref).digest
    for index, parent in enumerate(parents):
        if parent.artifact.digest == digest:
            return index
    raise RecipeError(
        f"{ref} is none of the adapters that are composed",
        place="composition.head_from",
        hint=f"They are: {', '.join(parent.ref for parent in parents)}",
    )


def store_composition(
    registry: Registry,
    name: str,
    parents: Sequence[Parent],
    method: MergeMethod,
    *,
    head_from: int | None = None,
    search: Search | None = None,
) -> Version:
    """Compose adapters and store the result as the next version of ``name``.

    The same adapters, weights and settings give the same digest, and so the same version.

    Args:
        registry: that takes it.
        name: ``part`` or ``owner/part``.
        parents: as ``open_parents`` gives them.
        method: how.
        head_from: index of the parent whose head and labels are taken.
        search: how the weights were found, if nobody gave them.

    Raises:
        RefError: when the name is malformed.
        RecipeError: when these adapters can't be made one in this way.
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
    search: Search | None = None,
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


def _check_kinship(parents: Sequence[Parent]) -> None:
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
                hint="Only adapters for the same task can be made one",
            )


def _check_labels(parents: Sequence[Parent]) -> None:
    for parent in parents[1:]:
        if parent.manifest.labels != parents[0].manifest.labels:
            raise RecipeError(
                f"the heads of {parents[0].ref} and {parent.ref} are of different labels",
                place="composition.head_from",
                hint="Take the head of one adapter: --head-from REF",
            )


def _composition(
    parents: Sequence[Parent], method: MergeMethod, head_from: int | None, search: Search | None
) -> dict[str, Any]:
    """Return what the manifest's recipe holds under ``composition``."""
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
        document["search"] = asdict(search)
    return document


def _manifest(
    parents: Sequence[Parent],
    weights: AdapterWeights,
    head: Parent,
    composition: dict[str, Any],
    search: Search | None,
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
            "description": f"{composition['method']} of {_listed(parents)}",
            # what is needed to use it
            "backbone": first.recipe["backbone"],
            # a temperature was fitted for the answers of one adapter alone
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
    """Return ``adapter_config.json`` of the result, in the form of the first adapter's."""
    config = dict(first.artifact.adapter_config)
    config["modules_to_save"] = list(modules_to_save(head.artifact.adapter_config)) or None
    if weights is first.artifact.weights:
        return config
    spec = weights.spec
    if not isinstance(spec, LoraSpec):
        return {
            **config,
            "num_virtual_tokens": spec.num_virtual_tokens,
            "prefix_projection": spec.projection,
        }
    everywhere = spec.target_modules == (ALL_LINEAR,)
    return {
        **config,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha),
        "lora_dropout": spec.dropout,
        "target_modules": ALL_LINEAR if everywhere else list(spec.target_modules),
        "use_rslora": spec.rslora,
        "init_lora_weights": True,
    }


def _card(manifest: Manifest, name: str, parents: Sequence[Parent]) -> str:
    card = render_card(manifest, name=name, plot=None, license=_license(parents[0].artifact.path))
    rows = "\n".join(
        f"| `{parent.ref}` | {parent.weight:g} | `{parent.artifact.digest}` |" for parent in parents
    )
    method = manifest.recipe["composition"]["method"]
    return (
        f"{card}\n## Composition\n\nIt was not trained itself; it was made by `{method}` of:\n\n"
        f"| adapter | weight | digest |\n|---|---:|---|\n{rows}\n"
    )


def _license(folder: Path) -> str | None:
    """Return the license that an adapter's card names, if it can be read."""
    try:
        card = ModelCard((folder / CARD_NAME).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        return None
    name = card.data.get("license")
    return name if isinstance(name, str) else None


def _listed(parents: Sequence[Parent]) -> str:
    return ", ".join(
        parent.ref if parent.weight == 1.0 else f"{parent.ref}*{parent.weight:g}"
        for parent in parents
    )
