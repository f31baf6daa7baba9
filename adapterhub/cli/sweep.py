"""``sweep``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import hush_libraries, log_console, output, print_json, table
from adapterhub.cli.options import Device, Json
from adapterhub.cli.run import open_reporter

if TYPE_CHECKING:
    from adapterhub.registry.version import Version
    from adapterhub.training.sweep.results import SweepResult

#: Trials that the table shows, the best first.
SHOWN_TRIALS = 10


class Sampler(StrEnum):
    """What draws."""

    tpe = "tpe"
    random = "random"


class Pruner(StrEnum):
    """What stops early."""

    median = "median"
    halving = "halving"
    hyperband = "hyperband"
    none = "none"


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(sweep)


def sweep(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. train.epochs=5")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(help="What to try, a YAML file; a space for the recipe's method if none."),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="That the study shall have in the end, all calls together.")
    ] = 20,
    sampler: Annotated[Sampler, typer.Option(help="What draws the values.")] = Sampler.tpe,
    pruner: Annotated[Pruner, typer.Option(help="What stops poor trials.")] = Pruner.median,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Of the sweep; runs/NAME-sweep by default.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database for the study; a file in the folder by default.")
    ] = None,
    keep_all: Annotated[bool, typer.Option(help="Keep the adapter of every trial.")] = False,
    register: Annotated[bool, typer.Option(help="Store the best adapter.")] = True,
    show_space: Annotated[bool, typer.Option(help="Print what would be tried, and end.")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Search for better values of a recipe's keys; run it again to go on."""
    hush_libraries()
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.training.sweep.defaults import default_space
    from adapterhub.training.sweep.needs import import_optuna
    from adapterhub.training.sweep.space import load_space
    from adapterhub.training.sweep.study import SweepOptions

    checked = load_recipe(recipe, overrides or [])
    tried = load_space(space) if space else default_space(checked)
    if show_space:
        _print_space(tried.document())
        return
    import_optuna()
    from adapterhub.training.sweep.run import run_sweep

    options = SweepOptions(
        trials=trials,
        sampler=sampler.value,
        pruner=pruner.value,
        seed=seed,
        keep_all=keep_all,
    )
    with open_reporter(log_console()) as reporter:
        result = run_sweep(
            checked,
            tried,
            options,
            folder=output_folder,
            storage=storage,
            reporter=reporter,
            device=device,
        )
    version = None
    if register and result.artifact is not None:
        from adapterhub.registry.registry import Registry

        version = Registry().put(result.artifact, checked.name, info=result.info())
    if as_json:
        print_json(_document(result, version))
    else:
        _show(result, version)


def _print_space(document: Any) -> None:
    import yaml

    sys.stdout.write(yaml.safe_dump(document, sort_keys=True, allow_unicode=True))


def _document(result: SweepResult, version: Version | None) -> dict[str, Any]:
    return {
        "ref": str(version.ref) if version else None,
        "digest": result.digest or None,
        "artifact": str(result.artifact) if result.artifact else None,
        "study": result.name,
        "folder": str(result.folder),
        **asdict(result.goal),
        "best": asdict(result.best) if result.best else None,
        "trials": [asdict(trial) for trial in result.trials],
        "pictures": [str(result.folder / name) for name in result.pictures],
    }


def _show(result: SweepResult, version: Version | None) -> None:
    console = output()
    metric, sign = result.goal.metric, 1.0 if result.goal.greater_is_better else -1.0
    complete = [t for t in result.trials if t.state == "complete" and t.value is not None]
    complete.sort(key=lambda t: (-sign * (t.value or 0.0), t.number))
    keys = sorted({key for trial in result.trials for key in trial.params})
    rows = table(">trial", f">{metric}", *(key.rpartition(".")[2] for key in keys))
    for trial in complete[:SHOWN_TRIALS]:
        values = [_value(trial.params.get(key)) for key in keys]
        rows.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    console.print(rows)
    console.print(
        f"\n{len(result.trials)} trials: {len(complete)} to the end, "
        f"{result.count('pruned')} stopped early, {result.count('fail')} failed"
    )
    for name in result.pictures:
        console.print(f"picture {result.folder / name}", markup=False)
    running = result.count("running")
    if running:
        still = "1 trial still runs" if running == 1 else f"{running} trials still run"
        console.print(f"{still} in other processes; the last one to finish stores the best")
    if version is not None:
        console.print(f"stored the best as {version.ref} ({version.digest[:19]}…)")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
