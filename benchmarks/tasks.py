"""What do recipes come to on real data, beside the frozen backbone and full fine-tuning?

Physics: a frozen backbone's features say much of a text already, and a head alone reads them
out; an adapter of rank r moves each weight matrix by one of rank r, and has to make up for the
rounding to 4 bits; full fine-tuning moves every weight of the unquantized backbone. What
remains between the second and the third is the price of a small adapter, what lies between the
first and the second is what it is worth.

    python benchmarks/tasks.py RECIPE ... [--parts adapter base full] [--rows N] [--set KEY=VALUE]
    python benchmarks/tasks.py --table

RECIPE is a name in ``recipes/``. Parts: ``adapter`` is the recipe as it stands; ``base`` the
frozen backbone, with a head that is trained alone, or asked without any training where the
task generates text; ``full`` every weight. ``--rows`` bounds the training rows, ``--set``
changes keys of the recipe, and ``--generate`` says how many answers are generated to be scored
as text. Each part is kept in ``benchmarks/results/RECIPE.json`` with command, settings, machine
and date, so that parts can be measured in several runs; the tables in ``RESULTS.md`` and
``docs/tasks.md`` are written anew from all of them after each.

``--trained FOLDER`` measures the adapter of a run that ``adapterhub train`` has finished, instead
of training it. Interrupted parts are lost. Texts of rows are never stored.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from task_parts import PARTS, Asked
from task_results import RESULTS, machine, save_part, today
from task_table import write_table

from adapterhub.cli.console import silence_libraries
from adapterhub.training.progress import PlainReporter
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.setup import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = Path(__file__).parents[1] / "recipes"


def main() -> None:
    arguments = parse(sys.argv[1:])
    silence_libraries()
    keep_freed_memory()
    for name in arguments.recipes:
        for part in arguments.parts:
            measure(name, part, arguments)
            write_table()
    write_table()


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="names in recipes/")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=["adapter", "base"])
    parser.add_argument("--rows", type=int, help="most training rows; the recipe's if not given")
    parser.add_argument("--set", nargs="+", default=[], help="keys of the recipe, KEY=VALUE")
    parser.add_argument("--generate", type=int, default=100, help="answers scored as text")
    parser.add_argument("--head-rate", type=float, default=5e-3, help="of a head alone")
    parser.add_argument("--full-rate", type=float, default=1e-4, help="of full fine-tuning")
    parser.add_argument("--keep", type=Path, help="folder in which the run of the adapter is kept")
    parser.add_argument("--trained", type=Path, help="run of the adapter, by adapterhub train")
    parser.add_argument("--table", action="store_true", help="write the table and stop")
    arguments = parser.parse_args(words)
    if not arguments.recipes and not arguments.table:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        parser.error(f"name recipes, of {known}")
    return arguments


def measure(name: str, part: str, arguments: argparse.Namespace) -> None:
    """Measure a part of a recipe and keep what was found."""
    overrides = list(arguments.set)
    if arguments.rows:
        overrides.append(f"data.limit_train={arguments.rows}")
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(
            recipe=recipe,
            folder=(arguments.keep or Path(folder)) / f"{name}-{part}",
            generate=arguments.generate,
            head_rate=arguments.head_rate,
            full_rate=arguments.full_rate,
            reporter=PlainReporter(Console(stderr=True)),
            trained=arguments.trained,
        )
        found: dict[str, Any] = PARTS[part](asked)
    facts = {
        "command": shlex.join(["python", "benchmarks/tasks.py", *sys.argv[1:]]),
        "overrides": overrides,
        "machine": machine(),
        "date": today(),
    }
    save_part(RESULTS / f"{name}.json", recipe, part, {**found, **facts})


if __name__ == "__main__":
    main()
