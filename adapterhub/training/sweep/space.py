"""The search space of a sweep: recipe keys and the values to try for each."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from adapterhub.errors import RecipeError, did_you_mean
from adapterhub.training.recipe import LoraSection
from adapterhub.training.recipe_file import parse_recipe, put_key, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from adapterhub.training.recipe import Recipe

_RANGE_KEYS = ("low", "high", "log", "step")
_CHOICE_KEYS = ("choices",)
#: Keys, with all below them, that define how trials are compared; they can not be varied.
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
    """Numbers from ``low`` to ``high`` inclusive; integers where both ends are.

    With ``log`` they are sampled uniformly over the logarithm; without ``step`` they are
    continuous.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        """Whether only integers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that are validated for the whole parameter."""
        return (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Return whether a recipe's value can be sampled."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.is_integer and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def document(self) -> dict[str, Any]:
        """Return the content of the space file."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            found["log"] = True
        if self.step is not None:
            found["step"] = self.step
        return found


@dataclass(frozen=True, slots=True)
class Choices:
    """Two or more different values of any type."""

    values: tuple[Any, ...]

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that are validated for the whole parameter."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Return whether a recipe's value can be sampled."""
        return as_choice(value) in map(as_choice, self.values)

    def document(self) -> dict[str, Any]:
        """Return the content of the space file."""
        return {"choices": list(self.values)}


Parameter: TypeAlias = Range | Choices


@dataclass(frozen=True, slots=True)
class Space:
    """Values to try for each dotted recipe key; ``origin`` names the file in messages."""

    parameters: Mapping[str, Parameter]
    origin: str

    def document(self) -> dict[str, Any]:
        """Return the content of the space file."""
        return {key: self.parameters[key].document() for key in sorted(self.parameters)}


def as_choice(value: Any) -> str | int | float | bool | None:
    """Return a value as Optuna stores it: lists and mappings become JSON text."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def load_space(path: Path) -> Space:
    """Read a search space from a YAML file."""
    return parse_space(read_yaml(path, "space"), origin=path.name)


def parse_space(document: Any, *, origin: str) -> Space:
    """Validate a search space given as plain data: a range or a list of choices for each key.

    Raises:
        RecipeError: naming the key at fault.
    """
    if not isinstance(document, dict) or not document:
        raise RecipeError(
            "a space must map recipe keys to ranges or choices",
            place=origin,
            hint="Write optimizer.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}",
        )
    return Space({str(k): _parameter(v, f"{origin}: {k}") for k, v in document.items()}, origin)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some of its keys changed.

    Raises:
        RecipeError: when there is no such key, or the value is invalid.
    """
    document = recipe.model_dump(mode="json")
    for key, value in values.items():
        put_key(document, key, value)
    return parse_recipe(document)


def check_space(space: Space, recipe: Recipe) -> None:
    """Check that the ends of every range and every choice are valid in the recipe.

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
        raise RecipeError("can't be varied", place=place, hint="Run a sweep for each method")
    if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _COMPARED):
        raise RecipeError(
            "can't be varied: trials are compared by one metric on the same examples",
            place=place,
            hint="Run a sweep for each value",
        )


def values_of(recipe: Recipe, space: Space) -> dict[str, Any] | None:
    """Return the recipe's own values, if the space contains all of them."""
    found: dict[str, Any] = {}
    document = recipe.model_dump(mode="json")
    for key, parameter in space.parameters.items():
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not parameter.contains(value):
            return None
        integer = isinstance(parameter, Range) and parameter.is_integer
        found[key] = int(value) if integer else as_choice(value)
    return found


def _parameter(value: Any, place: str) -> Parameter:
    if isinstance(value, list):
        return _choices(value, place)
    if not isinstance(value, dict):
        raise RecipeError(
            f"{value!r} is neither a range nor a list of choices",
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
        raise RecipeError("choices must be a list of two or more values", place=place)
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
        problem = "log and step exclude each other" if log else "a step must be above 0"
        raise RecipeError(problem, place=f"{place}.step")
    found = Range(low, high, log, step)
    if found.is_integer and step is not None and not isinstance(step, int):
        raise RecipeError("the step between integers must be an integer", place=f"{place}.step")
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


#: The learning rate matters most; its best value hardly depends on the rank at a fixed alpha/rank.
#: Source: Schulman et al. 2025, "LoRA Without Regret"; Biderman et al. 2024, arXiv:2405.09673.
_LORA: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-4, 1e-2, log=True),
    "adapter.rank": Choices((4, 8, 16, 32)),
    "adapter.alpha": Choices((8.0, 16.0, 32.0, 64.0)),
    "adapter.dropout": Choices((0.0, 0.05, 0.1)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}
#: A prefix needs far higher learning rates than weights; its length matters most after them.
#: Source: Li and Liang 2021, arXiv:2101.00190.
_PREFIX: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-3, 1e-1, log=True),
    "adapter.num_virtual_tokens": Choices((4, 8, 16, 32)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}
_HEAD: Mapping[str, Parameter] = {
    "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
    "optimizer.weight_decay": Choices((0.0, 0.01, 0.1)),
    "schedule.warmup": Choices((0.0, 0.06, 0.1)),
}


def default_space(recipe: Recipe) -> Space:
    """Return the default space for the recipe's adapter method."""
    if recipe.train.parts == "head":
        return Space(_HEAD, "the space for heads")
    if isinstance(recipe.adapter, LoraSection):
        return Space(_LORA, "the space for lora")
    return Space(_PREFIX, "the space for prefix")
