"""``sweep`` and ``learn-curve``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adapterhub.cli.console import (
    log_console,
    open_reporter,
    output,
    print_json,
    short_digest,
    silence_libraries,
    table,
)
from adapterhub.cli.options import Device, Json, Output, Overrides, RecipeFile, open_registry
from adapterhub.errors import RecipeError
from adapterhub.refs import TRIAL_TAG

if TYPE_CHECKING:
    from adapterhub.registry.version import Version
    from adapterhub.training.learning_curve import LearningCurve
    from adapterhub.training.sweep.results import SweepResult

PLOT_NAME = "curve.svg"
#: Trials that the table shows, the best first.
SHOWN_TRIALS = 10


class Sampler(StrEnum):
    """Samplers of a sweep."""

    tpe = "tpe"
    random = "random"


class Pruner(StrEnum):
    """Rules that stop poor trials early."""

    median = "median"
    halving = "halving"
    hyperband = "hyperband"
    none = "none"


def sweep(
    recipe: RecipeFile,
    overrides: Overrides = None,
    space: Annotated[
        Path | None, typer.Option(help="Search space (YAML); one for the method by default.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Number of trials of the study, earlier ones included.")
    ] = 20,
    sampler: Annotated[Sampler, typer.Option(help="Sampler of hyperparameters.")] = Sampler.tpe,
    pruner: Annotated[Pruner, typer.Option(help="Early stopping of trials.")] = Pruner.median,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    output_folder: Output = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna database URL; a file in the folder by default.")
    ] = None,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep the adapter of every trial.")
    ] = False,
    register: Annotated[bool, typer.Option(help="Store the best adapter in the registry.")] = True,
    show_space: Annotated[
        bool, typer.Option("--show-space", help="Print the search space and exit.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Search hyperparameters of a recipe with Optuna."""
    silence_libraries()
    from adapterhub.training.preflight import check_recipe
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.training.sweep.space import default_space, load_space
    from adapterhub.training.sweep.study import SweepOptions, import_optuna

    checked = load_recipe(recipe, overrides or [])
    tried = load_space(space) if space else default_space(checked)
    if show_space:
        import yaml

        yaml.safe_dump(tried.document(), sys.stdout, sort_keys=True, allow_unicode=True)
        return
    import_optuna()
    check_recipe(checked)
    from adapterhub.training.sweep.run import run_sweep
    from adapterhub.workflows.train_run import train_trial

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
            train_trial=train_trial,
        )
    version = None
    if register and result.artifact is not None:
        version = open_registry().put(
            result.artifact, checked.name, info=result.info(), tags=[TRIAL_TAG]
        )
    if as_json:
        print_json(_sweep_document(result, version))
    else:
        _show_sweep(result, version)


def _sweep_document(result: SweepResult, version: Version | None) -> dict[str, Any]:
    return {
        "ref": str(version.ref) if version else None,
        "digest": result.digest or None,
        "artifact": str(result.artifact) if result.artifact else None,
        "study": result.name,
        "folder": str(result.folder),
        **asdict(result.goal),
        "best": asdict(result.best) if result.best else None,
        "trials": [asdict(trial) for trial in result.trials],
        "plots": [str(result.folder / name) for name in result.plots],
    }


def _show_sweep(result: SweepResult, version: Version | None) -> None:
    console = output()
    metric, sign = result.goal.metric, 1.0 if result.goal.greater_is_better else -1.0
    complete = [t for t in result.trials if t.state == "complete" and t.value is not None]
    complete.sort(key=lambda t: (-sign * (t.value or 0.0), t.number))
    keys = sorted({key for trial in result.trials for key in trial.params})
    shown = table(">trial", f">{metric}", *(key.rpartition(".")[2] for key in keys))
    for trial in complete[:SHOWN_TRIALS]:
        values = [_value(trial.params.get(key)) for key in keys]
        shown.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    console.print(shown)
    console.print(
        f"\n{len(result.trials)} trials: {len(complete)} complete, "
        f"{result.count('pruned')} pruned, {result.count('fail')} failed"
    )
    for name in result.plots:
        console.print(f"plot {result.folder / name}", markup=False)
    running = result.count("running")
    if running:
        console.print(f"{running} running in other processes; the last one stores the best")
    if version is not None:
        console.print(f"stored the best as {version.ref} ({short_digest(version.digest)})")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def learn_curve(
    recipe: RecipeFile,
    overrides: Overrides = None,
    examples_per_label: Annotated[
        str | None, typer.Option(help="Examples per label of each point, e.g. 8,16,64")
    ] = None,
    num_examples: Annotated[
        str | None, typer.Option(help="Examples of each point, e.g. 100,400; halves by default.")
    ] = None,
    min_steps: Annotated[int, typer.Option(min=1, help="Fewest optimizer steps of a point.")] = 60,
    output_folder: Output = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a metric over growing training sets."""
    silence_libraries()
    from adapterhub.training.preflight import check_recipe
    from adapterhub.training.recipe_file import load_recipe

    if examples_per_label and num_examples:
        raise RecipeError("cannot be used with --examples-per-label", place="--num-examples")
    limit_by: Literal["label", "examples"] | None = (
        "label" if examples_per_label else "examples" if num_examples else None
    )
    given = examples_per_label or num_examples
    option = "--examples-per-label" if examples_per_label else "--num-examples"
    checked = load_recipe(recipe, overrides or [])
    numbers = _numbers(given, option) if given else None
    check_recipe(checked)
    from adapterhub.training.learning_curve import measure_learning_curve
    from adapterhub.workflows.run_report.figures import draw_learning_curve
    from adapterhub.workflows.train_run import train_trial

    with open_reporter(log_console()) as reporter:
        curve = measure_learning_curve(
            checked,
            limits=numbers,
            limit_by=limit_by,
            least_steps=min_steps,
            folder=output_folder,
            reporter=reporter,
            device=device,
            train_point=train_trial,
        )
    plot = curve.folder / PLOT_NAME
    plot.write_bytes(draw_learning_curve(curve))
    if as_json:
        print_json({**asdict(curve), "folder": str(curve.folder), "plot": str(plot)})
    else:
        _show_curve(curve, plot)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(
            f"{text!r} is not a list of numbers", place=option, hint="Write 8,16,64"
        ) from None


def _show_curve(curve: LearningCurve, plot: Path) -> None:
    console = output()
    shown = table(
        ">examples per label" if curve.limit_by == "label" else ">limit",
        ">examples",
        f">{curve.metric}",
        ">95% interval",
        ">steps",
        ">seconds",
    )
    for point in curve.points:
        shown.add_row(
            str(point.limit),
            str(point.num_examples),
            f"{point.value:.4f}",
            _interval(point.low, point.high),
            str(point.steps),
            f"{point.seconds:.0f}",
        )
    console.print(shown)
    console.print(f"\n{_verdict(curve)}")
    console.print(f"plot {plot}", markup=False)


def _interval(low: Any, high: Any) -> str:
    return "" if low is None else f"{low:.4f} … {high:.4f}"


def _verdict(curve: LearningCurve) -> str:
    found = curve.forecast
    if found is None:
        return "no forecast: too few points, or no power law fits them"
    last = curve.points[-1]
    change = found.gain if curve.greater_is_better else -found.gain
    text = (
        f"forecast for {found.num_examples} examples, twice as many: {curve.metric} "
        f"{found.value:.4f} ({change:+.4f})"
    )
    if last.low is not None and last.high is not None and found.gain < (last.high - last.low) / 2:
        return f"{text}, less than this validation set can show"
    return text
