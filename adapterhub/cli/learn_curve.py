"""``learn-curve``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adapterhub.cli.console import hush_libraries, log_console, output, print_json, table
from adapterhub.cli.options import Device, Json
from adapterhub.cli.run import open_reporter
from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from adapterhub.training.learning_curve import LearningCurve

PICTURE_NAME = "curve.svg"


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("learn-curve")(learn_curve)


def learn_curve(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. train.epochs=5")
    ] = None,
    per_label: Annotated[
        str | None, typer.Option(help="Rows of each label at each point, e.g. 8,16,64.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows at each point, e.g. 100,400; else halves of all.")
    ] = None,
    least_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of small points.")] = 60,
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Of the runs; runs/NAME-learn-curve.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show how the metric grows with the number of labels; run it again to go on."""
    hush_libraries()
    from adapterhub.training.learning_curve import measure_learning_curve
    from adapterhub.training.recipe_file import load_recipe
    from adapterhub.workflows.run_report.figures import draw_learning_curve

    if per_label and rows:
        raise RecipeError("--per-label and --rows exclude each other", place="--rows")
    cut: Literal["label", "rows"] | None = "label" if per_label else "rows" if rows else None
    given = per_label or rows
    checked = load_recipe(recipe, overrides or [])
    with open_reporter(log_console()) as reporter:
        curve = measure_learning_curve(
            checked,
            limits=_numbers(given, "--per-label" if per_label else "--rows") if given else None,
            cut=cut,
            least_steps=least_steps,
            folder=output_folder,
            reporter=reporter,
            device=device,
        )
    picture = curve.folder / PICTURE_NAME
    picture.write_bytes(draw_learning_curve(curve))
    if as_json:
        print_json({**asdict(curve), "folder": str(curve.folder), "picture": str(picture)})
    else:
        _show(curve, picture)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(
            f"{text!r} is no list of numbers", place=option, hint="Write 8,16,64"
        ) from None


def _show(curve: LearningCurve, picture: Path) -> None:
    console = output()
    shown = table(
        ">rows a label" if curve.cut == "label" else ">limit",
        ">rows",
        f">{curve.metric}",
        ">95% interval",
        ">steps",
        ">seconds",
    )
    for point in curve.points:
        shown.add_row(
            str(point.limit),
            str(point.rows),
            f"{point.value:.4f}",
            _interval(point.low, point.high),
            str(point.steps),
            f"{point.seconds:.0f}",
        )
    console.print(shown)
    console.print(f"\n{_verdict(curve)}")
    console.print(f"picture {picture}", markup=False)


def _interval(low: Any, high: Any) -> str:
    return "" if low is None else f"{low:.4f} … {high:.4f}"


def _verdict(curve: LearningCurve) -> str:
    found = curve.forecast
    if found is None:
        return "too few points, or too uneven ones, to say what more labels would bring"
    last = curve.points[-1]
    change = found.gain if curve.greater_is_better else -found.gain
    text = (
        f"{found.rows} rows, twice as many, would bring {curve.metric} to about "
        f"{found.value:.4f} ({change:+.4f}), if the curve goes on as it went"
    )
    if last.low is not None and last.high is not None and found.gain < (last.high - last.low) / 2:
        return f"{text}; that is less than these validation rows can show"
    return text
