"""What does an adapter reach on real data, compared to a frozen backbone and full fine-tuning?

Physics: the features of a frozen backbone already contain much of a text's meaning, and a head
alone can read them; an adapter of rank r changes each weight matrix by a matrix of rank r, and has
to compensate the rounding to 4 bits; full fine-tuning changes every weight of the unquantized
backbone. The difference between full fine-tuning and the adapter is the price of a small adapter,
the difference between the adapter and the frozen backbone is its benefit.

    python benchmarks/tasks.py RECIPE ... [--parts adapter base full] [--examples N]
                               [--set KEY=VALUE ...] [--generate N]
    python benchmarks/tasks.py --table

RECIPE is a name in ``recipes/``. Parts: ``adapter`` is the recipe as it is; ``base`` the frozen
backbone, with a head that is trained alone, or without any training if the task generates text;
``full`` trains every weight. ``--examples`` limits the training examples, ``--set`` changes keys
of the recipe, and ``--generate`` is the number of answers that are generated and scored as text.
Each part is stored in ``benchmarks/results/RECIPE.json`` with command, settings, machine and date,
so that parts can be measured in several runs, or in ``RECIPE.BACKBONE.json`` if ``--set`` names
another backbone; afterwards the tables in ``RESULTS.md`` and
``docs/tasks.md`` are written again.

``--trained FOLDER`` measures the adapter of a finished run of ``adapterhub train`` instead of
training it. Interrupted parts are lost. Texts of examples are never stored.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from task_measurements import PARTS, Measurement
from task_results import RESULTS, machine, save_part, today
from task_table import write_tables

from adapterhub.cli.console import silence_libraries
from adapterhub.training.progress import PlainReporter
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.setup import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = Path(__file__).parents[1] / "recipes"


def main() -> None:
    options = parse(sys.argv[1:])
    silence_libraries()
    keep_freed_memory()
    for name in options.recipes:
        for part in options.parts:
            measure(name, part, options)
            write_tables()
    write_tables()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="names in recipes/")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=["adapter", "base"])
    parser.add_argument("--examples", type=int, help="limit of training examples")
    parser.add_argument("--set", nargs="+", default=[], help="keys of the recipe, KEY=VALUE")
    parser.add_argument("--generate", type=int, default=100, help="answers to score as text")
    parser.add_argument(
        "--head-rate", type=float, default=5e-3, help="learning rate of a head alone"
    )
    parser.add_argument(
        "--full-rate", type=float, default=1e-4, help="learning rate of full fine-tuning"
    )
    parser.add_argument("--keep", type=Path, help="folder to keep the adapter's run in")
    parser.add_argument("--trained", type=Path, help="finished run of adapterhub train")
    parser.add_argument("--table", action="store_true", help="write the tables and stop")
    options = parser.parse_args(words)
    if not options.recipes and not options.table:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        parser.error(f"name at least one recipe of: {known}")
    return options


def measure(name: str, part: str, options: argparse.Namespace) -> None:
    """Measure a part of a recipe and store the result."""
    overrides = list(options.set)
    if options.examples:
        overrides.append(f"data.limit_train={options.examples}")
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(
            recipe=recipe,
            folder=(options.keep or Path(folder)) / f"{name}-{part}",
            generate=options.generate,
            head_rate=options.head_rate,
            full_rate=options.full_rate,
            reporter=PlainReporter(Console(stderr=True)),
            trained=options.trained,
        )
        found = PARTS[part](measurement)
    conditions = {
        "command": shlex.join(["python", "benchmarks/tasks.py", *sys.argv[1:]]),
        "overrides": overrides,
        "machine": machine(),
        "date": today(),
    }
    own = load_recipe(RECIPES / f"{name}.yaml").backbone.name
    other = "" if recipe.backbone.name == own else f".{recipe.backbone.name}"
    save_part(RESULTS / f"{name}{other}.json", recipe, part, {**found, **conditions})


if __name__ == "__main__":
    main()
