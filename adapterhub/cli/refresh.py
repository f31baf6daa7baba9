"""``refresh``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import hush_libraries, log_console, output, print_json, table
from adapterhub.cli.options import field_pair
from adapterhub.cli.run import open_reporter
from adapterhub.errors import TrainingInterrupted

if TYPE_CHECKING:
    from rich.console import Console

    from adapterhub.workflows.refresh.findings import RefreshOutcome
    from adapterhub.workflows.refresh.run import RefreshOptions, RefreshResult


#: As in ``RefreshOptions``, without importing what it needs.
REPLAY, LEVEL = 0.25, 0.05


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(refresh)


def refresh(
    ref: Annotated[str, typer.Argument(metavar="NAME", help="NAME, NAME@3 or NAME@prod")],
    new_data: Annotated[Path, typer.Option(help="File of new rows with their answers.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. train.epochs=2")
    ] = None,
    replay: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the old rows to learn again.")
    ] = REPLAY,
    level: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Chance to see drift where there is none.")
    ] = LEVEL,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="task_field=column; the recipe's where not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, and train nothing.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Train also without drift or loss.")
    ] = False,
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Of the run; below runs by default.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a version further on new rows where they drifted; no alias is moved."""
    hush_libraries()
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.refresh.run import RefreshOptions
    from adapterhub.workflows.refresh.run import refresh as run_refresh

    options = RefreshOptions(
        fields=dict(map(field_pair, fields)) if fields else None,
        replay=replay,
        level=level,
        anyway=anyway,
        dry_run=dry_run,
        folder=output_folder,
        overrides=overrides or (),
        device=device,
    )
    again = _command(ref, new_data, options, as_json=as_json)
    try:
        with open_reporter(log_console()) as reporter:
            found = run_refresh(Registry(), ref, new_data, options, reporter=reporter)
    except TrainingInterrupted as error:
        error.hint = f"To go on: {again}"
        raise
    except KeyboardInterrupt:
        log_console().print(f"interrupted. To go on: {again}", markup=False, soft_wrap=True)
        raise
    if as_json:
        print_json(found.document())
    else:
        _show(found, output(), dry_run=dry_run)


def _command(ref: str, new_data: Path, options: RefreshOptions, *, as_json: bool) -> str:
    """Return the command that was given, to be pasted into a shell."""
    words = ["adapterhub", "refresh", ref, "--new-data", str(new_data)]
    for name, value, default in (
        ("--replay", options.replay, REPLAY),
        ("--level", options.level, LEVEL),
        ("--output", options.folder, None),
        ("--device", options.device, None),
    ):
        if value != default:
            words += [name, str(value)]
    for field, column in (options.fields or {}).items():
        words += ["--field", f"{field}={column}"]
    for name, is_given in (
        ("--dry-run", options.dry_run),
        ("--anyway", options.anyway),
        ("--json", as_json),
    ):
        words += [name] if is_given else []
    return shlex.join([*words, *options.overrides])


def _show(found: RefreshResult, console: Console, *, dry_run: bool) -> None:
    _show_drift(found, console)
    _show_loss(found, console)
    if found.outcome is not None and found.child is not None:
        _show_outcome(found.outcome, found, console)
        done = "was stored before, by this same refresh, as" if found.done_before else "stored as"
        console.print(f"\n{done} {found.child.ref} ({found.child.digest[:19]}…), no alias moved")
        console.print(f"next: adapterhub promote {found.child.ref} --to ALIAS", markup=False)
    elif dry_run and found.is_due:
        console.print("\na refresh is due; nothing was trained (--dry-run)")
    elif not found.is_due:
        console.print("\nno drift and no loss are shown: nothing was trained")
        if not dry_run:
            console.print("train all the same with --anyway", markup=False)


def _show_drift(found: RefreshResult, console: Console) -> None:
    rows = table("drift of", "test", ">old rows", ">new rows", ">effect", ">p", "")
    shown = {each.what for each in found.drift.found}
    for each in found.drift.tests:
        rows.add_row(
            each.what,
            each.test,
            str(each.old),
            str(each.new),
            f"{each.effect:.3f}",
            f"{each.p_value:.4f}",
            "drift" if each.what in shown else "none shown",
        )
    console.print(rows)


def _show_loss(found: RefreshResult, console: Console) -> None:
    loss = found.loss
    rows = table(f"{loss.metric} of {found.parent.ref}", ">value", ">95% interval")
    if loss.recorded is not None:
        rows.add_row("recorded in training (validation)", f"{loss.recorded:.4f}", "")
    for what, value, spread in (
        (f"old {loss.split} rows", loss.old, loss.old_interval),
        (f"{found.rows} new rows", loss.new, loss.new_interval),
    ):
        rows.add_row(what, f"{value:.4f}", f"{spread.low:.4f} … {spread.high:.4f}")
    console.print()
    console.print(rows)
    change = f"{loss.change.low:+.4f} … {loss.change.high:+.4f}"
    verdict = "it matters" if loss.shown else "no loss is shown"
    console.print(f"new minus old {change}: {verdict}", markup=False)


def _show_outcome(outcome: RefreshOutcome, found: RefreshResult, console: Console) -> None:
    child = found.child.ref if found.child else ""
    rows = table("rows", "metric", f">{found.parent.ref}", f">{child}", ">difference", ">95%", ">p")
    parts = ((f"old {outcome.split}", outcome.forgetting), ("new, held out", outcome.gain))
    for what, differences in parts:
        for each in differences:
            rows.add_row(
                what,
                each.metric,
                f"{each.first:.4f}",
                f"{each.second:.4f}",
                f"{each.value:+.4f}",
                f"{each.interval.low:+.4f} … {each.interval.high:+.4f}",
                f"{each.p_value:.4f}",
            )
    console.print()
    console.print(rows)
