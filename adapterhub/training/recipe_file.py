"""Read recipes from YAML files, plain data and command-line overrides."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from adapterhub.errors import RecipeError, did_you_mean
from adapterhub.training.recipe import LoraSection, Recipe
from adapterhub.training.recipe_names import OTHER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: A recipe of a few kilobytes is normal; a larger file is not a recipe.
MAX_RECIPE_BYTES = 1_000_000


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: YAML file.
        overrides: ``key.path=value`` each; the value is parsed as YAML.

    Raises:
        RecipeError: naming the key at fault and, where known, the intended one.
    """
    document = read_yaml(Path(path), "recipe")
    if not isinstance(document, dict):
        raise RecipeError("a recipe must be a mapping of keys to values", place=str(path))
    for override in overrides:
        apply_override(document, override)
    return parse_recipe(document)


def parse_recipe(document: Mapping[str, Any]) -> Recipe:
    """Validate a recipe given as plain data.

    Raises:
        RecipeError: naming the first key at fault.
    """
    document = dict(document)
    adapter = document.get("adapter")
    if isinstance(adapter, dict) and "method" not in adapter:
        document["adapter"] = {"method": LoraSection().method, **adapter}
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise _translate(error) from None


def read_yaml(path: Path, kind: str) -> Any:
    """Return the content of a small YAML file.

    Raises:
        RecipeError: when there is no such file, or it is not YAML.
    """
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*.yaml")]
        hint = did_you_mean(path.name, names)
        raise RecipeError(f"no such {kind} file", place=str(path), hint=hint)
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"is larger than {MAX_RECIPE_BYTES} bytes", place=str(path))
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError("is not UTF-8 text", place=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        raise RecipeError(f"{problem}", place=f"{path}{line}") from None


def apply_override(document: dict[str, Any], override: str) -> None:
    """Apply ``key.path=value`` to a recipe given as plain data."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"{override!r} is not an override",
            hint="Write key.path=value, e.g. train.epochs=5",
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"{text!r} is not a value", place=key) from None
    put_key(document, key, value)


def put_key(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a recipe given as plain data, adding missing sections."""
    *parents, last = key.split(".")
    section = document
    for parent in parents:
        inner = section.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise RecipeError("is a value, not a section", place=parent)
        section = inner
    section[last] = value


def _translate(error: ValidationError) -> RecipeError:
    """Return one error for pydantic's; an unknown key takes precedence."""
    found = error.errors(include_url=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    # pydantic adds the discriminator of a union to the path; recipes do not have it
    path = [str(part) for part in first["loc"] if part not in ("lora", "prefix")]
    place = ".".join(path)
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden":
        return RecipeError("unknown key", place=place, hint=_key_hint(path))
    if kind == "missing":
        return RecipeError("is missing", place=place, hint=f"Add it to the recipe: {place}: …")
    if kind in ("literal_error", "union_tag_invalid"):
        context = first.get("ctx", {})
        expected = str(context.get("expected") or context.get("expected_tags"))
        given = given.get("method") if isinstance(given, dict) else given
        if kind == "union_tag_invalid":
            place = f"{place}.method"
        names = [name.strip(" '\"") for name in expected.replace(" or ", ",").split(",")]
        return RecipeError(
            f"{given!r} is not one of {expected}", place=place, hint=did_you_mean(str(given), names)
        )
    if kind == "string_pattern_mismatch":
        return RecipeError(
            f"{given!r} is not a name",
            place=place,
            hint="Use lowercase letters, digits, '.', '_' and '-', as in support-replies",
        )
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict | BaseModel) else f" (found {given!r})"
    return RecipeError(f"{message[0].lower()}{message[1:]}{shown}", place=place)


def _key_hint(path: Sequence[str]) -> str:
    """Return the key that was likely meant: nearly the same name, another library's, or elsewhere.

    Every name that is suggested exists.
    """
    *section, name = path
    known = list(_keys(section))
    near = did_you_mean(name, known)
    if near.startswith("Did you mean"):
        return near
    place = ".".join(path).lower()
    key = OTHER_NAMES.get(place) or OTHER_NAMES.get(name.lower()) or _only_place(name)
    if key is None:
        return near
    same = key.split(".")[:-1] == section
    return f"Did you mean {key.split('.')[-1] if same else key!r}?"


def _only_place(name: str) -> str | None:
    """Return the path of the only key of a recipe with a name, if there is one."""
    found = [path for path in key_paths() if path.split(".")[-1] == name]
    return found[0] if len(found) == 1 else None


def key_paths(section: Sequence[str] = ()) -> list[str]:
    """Return the dotted paths of all keys of a recipe."""
    paths = []
    for name in _keys(section):
        path = [*section, name]
        paths += [".".join(path), *key_paths(path)]
    return paths


def _keys(path: Sequence[str]) -> Iterable[str]:
    """Return the known keys of the section at ``path``."""
    model: type[BaseModel] = Recipe
    names: set[str] = set(model.model_fields)
    for part in path:
        field = model.model_fields.get(part)
        models = _models(field.annotation) if field else []
        if not models:
            return []
        model = models[0]
        names = {name for each in models for name in each.model_fields}
    return names


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []
