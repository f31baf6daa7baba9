"""``refresh``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import (
    difference_cells,
    log_console,
    open_reporter,
    output,
    print_json,
    short_digest,
    silence_libraries,
    table,
)
from adapterhub.cli.options import (
    Device,
    Fields,
    Json,
    Output,
    Overrides,
    Ref,
    check_adapters,
    field_columns,
    open_registry,
)
from adapterhub.errors import TrainingInterrupted
from adapterhub.refs import parse_ref

if TYPE_CHECKING:
    from rich.console import Console

    from adapterhub.workflows.refresh.findings import RefreshOutcome
    from adapterhub.workflows.refresh.run import RefreshOptions, RefreshResult

#: Defaults of ``RefreshOptions``, whose module is too slow to import for ``--help``.
REPLAY, LEVEL = 0.25, 0.05


def refresh(
    ref: Ref,
    new_data: Annotated[Path, typer.Option(help="File of new labelled examples.")],
    overrides: Overrides = None,
    replay: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the old examples to replay.")
    ] = REPLAY,
    level: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Significance level of the drift tests.")
    ] = LEVEL,
    fields: Fields = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Test for drift without training.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Train even without drift.")] = False,
    output_folder: Output = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Test new examples for drift and retrain on them."""
    silence_libraries()
    columns = field_columns(fields)
    check_adapters(str(parse_ref(ref).newest), data=new_data, fields=columns)
    from adapterhub.workflows.refresh.run import RefreshOptions
    from adapterhub.workflows.refresh.run import refresh as run_refresh

    options = RefreshOptions(
        fields=columns or None,
        replay=replay,
        level=level,
        force=force,
        dry_run=dry_run,
        folder=output_folder,
        overrides=overrides or (),
        device=device,
    )
    again = _command(ref, new_data, options, as_json=as_json)
    try:
        with open_reporter(log_console()) as reporter:
            found = run_refresh(open_registry(), ref, new_data, options, reporter=reporter)
    except TrainingInterrupted as error:
        error.hint = f"To resume: {again}"
        raise
    except KeyboardInterrupt:
        log_console().print(f"interrupted. To resume: {again}", markup=False, soft_wrap=True)
        raise
    if as_json:
        print_json(found.document())
    else:
        _show(found, output(), dry_run=dry_run)


def _command(ref: str, new_data: Path, options: RefreshOptions, *, as_json: bool) -> str:
    """Return the command line that resumes this refresh."""
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
        ("--force", options.force),
        ("--json", as_json),
    ):
        words += [name] if is_given else []
    return shlex.join([*words, *options.overrides])


def _show(found: RefreshResult, console: Console, *, dry_run: bool) -> None:
    _show_drift(found, console)
    _show_loss(found, console)
    if found.outcome is not None and found.child is not None:
        _show_outcome(found.outcome, found, console)
        done = "already stored as" if found.done_before else "stored as"
        digest = short_digest(found.child.digest)
        console.print(f"\n{done} {found.child.ref} ({digest}), no alias moved")
        console.print(f"next: adapterhub promote {found.child.ref} --to ALIAS", markup=False)
    elif dry_run and found.is_due:
        console.print("\na refresh is due; nothing was trained (--dry-run)")
    elif not found.is_due:
        hint = "" if dry_run else "; train anyway with --force"
        few = found.metric_change.too_few(found.num_new)
        reason = "too few new examples to tell" if few else "no drift and no drop found"
        console.print(f"\n{reason}: nothing was trained{hint}", markup=False)


def _show_drift(found: RefreshResult, console: Console) -> None:
    shown = table("drift of", "test", ">old examples", ">new examples", ">effect", ">p", "")
    drifted = {each.what for each in found.drift.found}
    for each in found.drift.tests:
        shown.add_row(
            each.what,
            each.test,
            str(each.old),
            str(each.new),
            f"{each.effect:.3f}",
            f"{each.p_value:.4f}",
            "drift" if each.what in drifted else "none found",
        )
    console.print(shown)


def _show_loss(found: RefreshResult, console: Console) -> None:
    loss = found.metric_change
    shown = table(f"{loss.metric} of {found.parent.ref}", ">value", ">95% interval")
    if loss.recorded is not None:
        shown.add_row("recorded in training (validation)", f"{loss.recorded:.4f}", "")
    for what, value, spread in (
        (f"old {loss.split} examples", loss.old, loss.old_interval),
        (f"{found.num_new} new examples", loss.new, loss.new_interval),
    ):
        shown.add_row(what, f"{value:.4f}", f"{spread.low:.4f} … {spread.high:.4f}")
    console.print()
    console.print(shown)
    change = f"{loss.change.low:+.4f} … {loss.change.high:+.4f}"
    console.print(f"new minus old {change}: {loss.verdict(found.num_new)}", markup=False)


def _show_outcome(outcome: RefreshOutcome, found: RefreshResult, console: Console) -> None:
    child = found.child.ref if found.child else ""
    shown = table(
        "examples", "metric", f">{found.parent.ref}", f">{child}", ">difference", ">95%", ">p"
    )
    parts = ((f"old {outcome.split}", outcome.forgetting), ("new, held out", outcome.gain))
    for what, differences in parts:
        for each in differences:
            shown.add_row(what, *difference_cells(each))
    console.print()
    console.print(shown)
