"""``train`` and ``quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import (
    log_console,
    megabytes,
    open_reporter,
    output,
    percent,
    print_json,
    short_digest,
    silence_libraries,
    table,
)
from adapterhub.cli.options import Device, Json, Output, Overrides, RecipeFile

if TYPE_CHECKING:
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult

#: Labels listed after training; the report lists more.
SHOWN_LABELS = 200


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    output_folder: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's checkpoint.")
    ] = False,
    register: Annotated[bool, typer.Option(help="Store the adapter in the registry.")] = True,
    report: Annotated[bool, typer.Option(help="Write the run's HTML report.")] = True,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Fit a softmax temperature for the report.")
    ] = False,
    audit_seconds: Annotated[
        float, typer.Option(min=0, help="Time for the report's bias audit; 0 for none.")
    ] = 45,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train an adapter from a recipe."""
    silence_libraries()
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.workflows.run_report.options import ReportOptions
    from adapterhub.workflows.train_run import train_run

    checked = load_recipe(recipe, overrides or [])
    with open_reporter(log_console()) as reporter:
        result = train_run(
            checked,
            output=output_folder,
            resume=resume,
            reporter=reporter,
            device=device,
            report=ReportOptions(temperature=temperature, audit_seconds=audit_seconds)
            if report
            else None,
            register=register,
            trial=bool(overrides),
        )
    if not result.digest:
        # one of several processes, and not the one that wrote the artifact
        return
    if as_json:
        print_json(_document(result))
    else:
        _show(result, checked, trial=bool(overrides))


def quickstart(
    folder: Annotated[
        Path, typer.Option("--folder", help="Folder of recipes, data and runs.")
    ] = Path("runs/quickstart"),
) -> None:
    """Train and try two adapters on one 4-bit backbone."""
    silence_libraries()
    from adapterhub.cli.quickstart import run_quickstart

    run_quickstart(folder, output())


def _document(result: TrainResult) -> dict[str, Any]:
    return {
        "ref": result.reference or None,
        "digest": result.digest,
        "artifact": str(result.artifact),
        "report": str(result.report) if result.report else None,
        "metrics": {"before": dict(result.before), "after": dict(result.after)},
        "table": [dict(each) for each in result.table],
        "artifact_bytes": result.artifact_bytes,
        **result.info(),
    }


def _show(result: TrainResult, recipe: Recipe, *, trial: bool) -> None:
    console = output()
    if result.table:
        from adapterhub.workflows.run_report.prediction_sections import worst_first

        many = len(result.table) > SHOWN_LABELS
        labels = table("label", ">precision", ">recall", ">f1", ">support")
        for each in sorted(result.table, key=worst_first)[:SHOWN_LABELS] if many else result.table:
            scores = [f"{each[key]:.3f}" for key in ("precision", "recall", "f1")]
            labels.add_row(str(each["label"]), *scores, f"{each['support']:.0f}")
        console.print(labels)
        if many:
            rest = len(result.table) - SHOWN_LABELS
            console.print(f"{rest:,} further labels, with a better F1 or without examples")
        console.print()
    metrics = table("metric (validation)", ">before", ">after")
    for name, value in result.after.items():
        before = result.before.get(name)
        metrics.add_row(name, "" if before is None else f"{before:.4f}", f"{value:.4f}")
    console.print(metrics)
    console.print(
        f"\ntrained {percent(result.trained_share)} of the backbone's parameters in "
        f"{result.seconds:.0f} s at {result.tokens_per_second:.0f} tokens/s; "
        f"artifact {megabytes(result.artifact_bytes)} in {result.artifact}"
    )
    if result.report is not None:
        console.print(f"report {result.report}", markup=False)
    if result.reference:
        stored = f"stored as {result.reference} ({short_digest(result.digest)})"
        console.print(f"{stored}, a trial because of its overrides" if trial else stored)
        from adapterhub.tasks.table import served_by

        verb = "chat" if served_by(recipe.task.name, "chat") else "predict"
        name = result.reference if trial else recipe.name
        console.print(f"next: adapterhub {verb} {name}   adapterhub show {name}")
