"""What a sweep may change: keys of a recipe, and the values to try for each."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from adapterhub.errors import RecipeError, did_you_mean
from adapterhub.training.recipe_file import MAX_RECIPE_BYTES, parse_recipe, put_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from adapterhub.training.recipe import Recipe

_RANGE_KEYS = ("low", "high", "log", "step")
_CHOICE_KEYS = ("choices",)
#: Keys, with all below them, that decide by what trials are compared and on which rows.
_COMPARED = (
    "name",
    "task.name",
    "data.hub",
    "data.validation",
    "data.split",
    "data.limit_validation",
    "train.metric",
    "train.greater_is_better",
)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both ends are.

    Args:
        low: smallest value.
        high: largest value.
        log: draw evenly over the logarithm.
        step: distance between two values; none where not given.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> tuple[Any, ...]:
        """Return the values by which the whole parameter is checked."""
        return (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Tell whether a recipe's value is one that can be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def document(self) -> dict[str, Any]:
        """Return the same as a space file holds it."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            found["log"] = True
        if self.step is not None:
            found["step"] = self.step
        return found


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values, whatever their type.

    Args:
        values: two or more, all different.
    """

    values: tuple[Any, ...]

    def extremes(self) -> tuple[Any, ...]:
        """Return the values by which the whole parameter is checked."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Tell whether a recipe's value is one that can be drawn."""
        return as_choice(value) in map(as_choice, self.values)

    def document(self) -> dict[str, Any]:
        """Return the same as a space file holds it."""
        return {"choices": list(self.values)}


Parameter: TypeAlias = Range | Choices


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters of a sweep.

    Args:
        parameters: dotted key of the recipe to what is tried for it.
        origin: name of the file, for messages.
    """

    parameters: Mapping[str, Parameter]
    origin: str

    def document(self) -> dict[str, Any]:
        """Return the same as a space file holds it."""
        return {key: self.parameters[key].document() for key in sorted(self.parameters)}


def as_choice(value: Any) -> str | int | float | bool | None:
    """Return a value of ``choices`` as a study keeps it: lists and mappings as JSON text."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def load_space(path: Path) -> Space:
    """Read a space from a YAML file.

    Raises:
        RecipeError: naming the key at fault.
    """
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*.yaml")]
        raise RecipeError(
            "no such space file", place=str(path), hint=did_you_mean(path.name, names)
        )
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"is larger than {MAX_RECIPE_BYTES} bytes", place=str(path))
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or "is not YAML in UTF-8"
        raise RecipeError(problem, place=str(path)) from None
    return parse_space(document, origin=path.name)


def parse_space(document: Any, *, origin: str) -> Space:
    """Read a space given as plain data: key to a range, or to a list of choices.

    Args:
        document: as a space file holds it.
        origin: how messages name it.

    Raises:
        RecipeError: naming the key at fault.
    """
    if not isinstance(document, dict) or not document:
        raise RecipeError(
            "a space maps keys of the recipe to ranges or choices",
            place=origin,
            hint="Write optimizer.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}",
        )
    return Space({str(k): _parameter(v, f"{origin}: {k}") for k, v in document.items()}, origin)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some of its keys changed.

    Args:
        recipe: left as it is.
        values: dotted key to value.

    Raises:
        RecipeError: when there is no such key, or it can't have the value.
    """
    document = recipe.model_dump(mode="json")
    for key, value in values.items():
        put_key(document, key, value)
    return parse_recipe(document)


def check_space(space: Space, recipe: Recipe) -> None:
    """Check that the recipe takes every parameter at its ends, or at each of its choices.

    Raises:
        RecipeError: naming the key at fault, before anything is trained.
    """
    for key, parameter in space.parameters.items():
        _check_comparable(key, f"{space.origin}: {key}")
        for value in parameter.extremes():
            try:
                with_values(recipe, {key: value})
            except RecipeError as error:
                place = f"{space.origin}: {error.place or key}"
                raise RecipeError(error.problem, place=place, hint=error.hint) from None


def _check_comparable(key: str, place: str) -> None:
    if key == "adapter.method":
        raise RecipeError("can't be varied", place=place, hint="Make a study for each method")
    if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _COMPARED):
        raise RecipeError(
            "can't be varied: trials are compared by one metric on the same rows",
            place=place,
            hint="Make a study for each value",
        )


def values_of(recipe: Recipe, space: Space) -> dict[str, Any] | None:
    """Return the recipe's own values, if all of them lie in the space."""
    found: dict[str, Any] = {}
    document = recipe.model_dump(mode="json")
    for key, parameter in space.parameters.items():
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not parameter.contains(value):
            return None
        whole = isinstance(parameter, Range) and parameter.whole
        found[key] = int(value) if whole else as_choice(value)
    return found


def _parameter(value: Any, place: str) -> Parameter:
    if isinstance(value, list):
        return _choices(value, place)
    if not isinstance(value, dict):
        raise RecipeError(
            f"{value!r} is neither a range nor choices",
            place=place,
            hint="Write {low: 1, high: 8} or [1, 2, 4, 8]",
        )
    if "choices" in value:
        _check_keys(value, _CHOICE_KEYS, place)
        return _choices(value["choices"], place)
    _check_keys(value, _RANGE_KEYS, place)
    return _range(value, place)


def _check_keys(value: Mapping[Any, Any], known: Iterable[str], place: str) -> None:
    for key in value:
        if key not in known:
            raise RecipeError(
                "unknown key", place=f"{place}.{key}", hint=did_you_mean(str(key), known)
            )


def _choices(value: Any, place: str) -> Choices:
    if not isinstance(value, list) or len(value) < 2:
        raise RecipeError("choices are a list of two values or more", place=place)
    kept = [(type(each), as_choice(each)) for each in value]
    for index, each in enumerate(kept):
        if each in kept[:index]:
            raise RecipeError(f"the choice {value[index]!r} is listed twice", place=place)
    return Choices(tuple(value))


def _range(value: Mapping[str, Any], place: str) -> Range:
    low, high = (_number(value, key, place) for key in ("low", "high"))
    step = None if value.get("step") is None else _number(value, "step", place)
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise RecipeError(f"{log!r} is neither true nor false", place=f"{place}.log")
    if low >= high:
        raise RecipeError(f"low {low:g} is not below high {high:g}", place=place)
    if log and low <= 0:
        raise RecipeError(f"log needs a low above 0, not {low:g}", place=f"{place}.low")
    if step is not None and (log or step <= 0):
        problem = "log and step exclude each other" if log else "a step is above 0"
        raise RecipeError(problem, place=f"{place}.step")
    found = Range(low, high, log, step)
    if found.whole and step is not None and not isinstance(step, int):
        raise RecipeError("the step between whole numbers is whole", place=f"{place}.step")
    return found


def _number(value: Mapping[str, Any], key: str, place: str) -> float:
    found = value.get(key)
    if isinstance(found, str):
        # YAML reads 1e-3, without a point, as text
        with suppress(ValueError):
            found = float(found)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        problem = "is missing" if key not in value else f"{found!r} is not a number"
        raise RecipeError(problem, place=f"{place}.{key}")
    return found
