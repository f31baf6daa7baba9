"""Write ``docs/recipes.md`` from the recipe's own types: ``python docs/make_recipes.py``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from pydantic import BaseModel

from adapterhub.training import recipe as recipes

PAGE = Path(__file__).with_name("recipes.md")
SECTIONS = (
    ("", recipes.Recipe),
    ("backbone", recipes.BackboneSection),
    ("task", recipes.TaskSection),
    ("data", recipes.DataSection),
    ("data.hub", recipes.HubData),
    ("data.split", recipes.SplitSection),
    ("adapter (method: lora)", recipes.LoraSection),
    ("adapter (method: prefix)", recipes.PrefixSection),
    ("optimizer", recipes.OptimizerSection),
    ("schedule", recipes.ScheduleSection),
    ("train", recipes.TrainSection),
)
INTRODUCTION = """# The keys of a recipe

A recipe is a YAML file; `recipes/` holds some that work. Any key can be changed on the command
line: `adapterhub train RECIPE train.epochs=5 adapter.rank=8`. Relative paths start from the
working directory. An unknown key, a wrong type, a missing file or field, an empty split and a
target module that does not exist are each one line that names the place, before any weight is
loaded. Rows of pictures have [a page of their own](pictures.md).

This page is written by `python docs/make_recipes.py` from the types in
`adapterhub/training/recipe.py`.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(_section(name, model) for name, model in SECTIONS)])


def _section(name: str, model: type[BaseModel]) -> str:
    meanings = _meanings(inspect.getdoc(model) or "")
    lines = [f"## {name or 'top level'}", "", "| key | default | meaning |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else _default(field.get_default(call_default_factory=True))
        )
        lines.append(f"| `{key}` | {default} | {meanings.get(key, '')} |")
    return "\n".join([*lines, ""])


def _default(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return ""
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _meanings(text: str) -> dict[str, str]:
    """Read the ``Args:`` part of a docstring."""
    _, _, arguments = text.partition("Args:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, flags=re.MULTILINE)
    return {key: " ".join(words.split()).replace("``", "`") for key, words in found}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
