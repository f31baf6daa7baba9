"""Examples for a stored adapter, and checks of both before torch and transformers are imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import DataError, RecipeError
from adapterhub.registry.policy import trusted_folder
from adapterhub.training.prepare import load_more_examples
from adapterhub.training.recipe import DataSection
from adapterhub.training.recipe_file import parse_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.data.dataset import Dataset
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version


def examples_for(
    manifest: Manifest,
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read a file of labelled examples as an adapter's recipe reads its data.

    ``fields`` replaces the recipe's field mapping.

    Raises:
        DataError: naming file and example, or an empty file.
    """
    # the recipe of an imported adapter is unknown; assume the task's own field names
    unknown = "recipe" in manifest.unknown
    section = DataSection(train="") if unknown else parse_recipe(manifest.recipe).data
    examples = load_more_examples(section, manifest.task, path, fields or None)
    if not len(examples):
        raise DataError("holds no examples", place=str(path))
    return examples if limit is None else examples.select(list(range(min(limit, len(examples)))))


def check_stored(
    registry: Registry,
    refs: Sequence[str],
    data: Path | None = None,
    *,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> None:
    """Check that adapters are stored, comparable, and that a file holds examples for each of them.

    Raises:
        NotFoundError: when there is no such version.
        RecipeError: when two of them are the same, or for different tasks.
        IntegrityError: when a stored byte has changed.
        SignatureError: when the registry requires a trusted signature and there is none.
        DataError: naming file and example.
    """
    versions = [registry.resolve(ref) for ref in refs]
    for other in versions[1:]:
        check_comparable(versions[0], other)
    for version in versions:
        if data is not None:
            content = (trusted_folder(registry, version) / MANIFEST_NAME).read_bytes()
            examples_for(Manifest.from_json(content), data, fields=fields, limit=limit)


def check_comparable(one: Version, two: Version) -> None:
    """Require two adapters for one task.

    Raises:
        RecipeError: when they are the same, or for different tasks.
    """
    if one.digest == two.digest:
        raise RecipeError(f"is the same adapter as {one.ref}", place=str(two.ref))
    if one.task != two.task:
        raise RecipeError(
            f"is for {two.task}, {one.ref} for {one.task}",
            place=str(two.ref),
            hint="Compare adapters for the same task",
        )
