"""``train`` and ``quickstart``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import (
    hush_libraries,
    log_console,
    megabytes,
    output,
    print_json,
    share,
    table,
)
from adapterhub.cli.options import Device, Json

if TYPE_CHECKING:
    from rich.console import Console

    from adapterhub.registry.version import Version
    from adapterhub.training.result import TrainResult


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(train)
    app.command()(quickstart)


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. train.epochs=5")
    ] = None,
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Folder of the run; runs/NAME by default.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's checkpoint.")] = False,
    register: Annotated[bool, typer.Option(help="Store the adapter in the registry.")] = True,
    report: Annotated[bool, typer.Option(help="Write a report on the run, an HTML page.")] = True,
    temperature: Annotated[
        bool, typer.Option(help="Fit a temperature on the validation rows, for the report.")
    ] = False,
    probe_seconds: Annotated[
        float,
        typer.Option(min=0, help="For what the adapter inherited, in the report; 0 leaves it out."),
    ] = 45,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train an adapter from a recipe and store it in the registry."""
    hush_libraries()
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.training.train import train as run_training
    from adapterhub.workflows.run_report.report import ReportOptions

    checked = load_recipe(recipe, overrides or [])
    console = log_console()
    with open_reporter(console) as reporter:
        result = run_training(
            checked,
            output=output_folder,
            resume=resume,
            reporter=reporter,
            device=device,
            report=ReportOptions(temperature=temperature, probe_seconds=probe_seconds)
            if report
            else None,
        )
    if not result.digest:
        # one of several processes, and not the one that wrote the artifact
        return
    version = None
    if register:
        from adapterhub.registry.registry import Registry

        version = Registry().put(
            result.artifact, checked.name, info={**result.info(), "curves": result.curves()}
        )
    if as_json:
        print_json(_document(result, version))
    else:
        _show(result, version)


def quickstart(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where recipes, data and runs are put.")
    ] = Path("runs/quickstart"),
) -> None:
    """Train two adapters on one 4-bit backbone, store them, and ask both."""
    hush_libraries()
    from adapterhub.cli.quickstart import run_quickstart

    run_quickstart(folder, output())


def open_reporter(console: Console) -> AbstractContextManager[Any]:
    """Return what shows a run: a live bar on a terminal, else a line now and then."""
    from adapterhub.training.progress import PlainReporter, RichReporter

    return RichReporter(console) if console.is_terminal else nullcontext(PlainReporter(console))


def _document(result: TrainResult, version: Version | None) -> dict[str, Any]:
    return {
        "ref": str(version.ref) if version else None,
        "digest": result.digest,
        "artifact": str(result.artifact),
        "report": str(result.report) if result.report else None,
        "metrics": {"before": dict(result.before), "after": dict(result.after)},
        "table": [dict(row) for row in result.table],
        "artifact_bytes": result.artifact_bytes,
        **result.info(),
    }


def _show(result: TrainResult, version: Version | None) -> None:
    console = output()
    if result.table:
        labels = table("label", ">precision", ">recall", ">f1", ">support")
        for row in result.table:
            scores = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
            labels.add_row(str(row["label"]), *scores, f"{row['support']:.0f}")
        console.print(labels)
        console.print()
    metrics = table("metric (validation)", ">before", ">after")
    for name, value in result.after.items():
        before = result.before.get(name)
        metrics.add_row(name, "" if before is None else f"{before:.4f}", f"{value:.4f}")
    console.print(metrics)
    console.print(
        f"\ntrained {share(result.trained_share)} of the backbone's parameters in "
        f"{result.seconds:.0f} s at {result.tokens_per_second:.0f} tokens/s; "
        f"artifact {megabytes(result.artifact_bytes)} in {result.artifact}"
    )
    if result.report is not None:
        console.print(f"report {result.report}", markup=False)
    if version is not None:
        console.print(f"stored as {version.ref} ({version.digest[:19]}…)")
        verb = "chat" if version.task == "dialogue" else "predict"
        console.print(f"next: adapterhub {verb} {version.name}   adapterhub show {version.name}")
