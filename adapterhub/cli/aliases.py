"""``alias``, ``promote``, ``log`` and ``rollback``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import output, print_json, print_result, say, silence_libraries, table
from adapterhub.cli.options import Device, Json, Ref, Why, complete_ref, open_registry
from adapterhub.errors import RefError
from adapterhub.refs import parse_ref

if TYPE_CHECKING:
    from adapterhub.registry.aliases import AliasMove

#: Exit code of a promotion that did not pass.
GATE_CLOSED = 8

AliasRef = Annotated[
    str,
    typer.Argument(
        metavar="NAME@ALIAS", help="Alias, e.g. topics@prod", autocompletion=complete_ref
    ),
]
AliasWord = Annotated[str, typer.Argument(help="Alias, e.g. prod")]


def set_alias(ref: Ref, alias: AliasWord, why: Why = "", as_json: Json = False) -> None:
    """Point an alias to a version without its rule."""
    registry = open_registry()
    move = registry.set_alias(ref, alias, why=why)
    if move is None:
        version = registry.resolve(f"{parse_ref(ref).name}@{alias}")
        line = f"{version.name}@{alias} points to version {version.version} already"
        print_result(None, line, as_json=as_json)
        return
    _show_move(move, as_json=as_json)


def remove_alias(ref: AliasRef, why: Why = "", as_json: Json = False) -> None:
    """Remove an alias."""
    name, alias = _alias_of(ref)
    _show_move(open_registry().remove_alias(name, alias, why=why), as_json=as_json)


def rule(
    ref: AliasRef,
    metric: Annotated[str | None, typer.Option(help="Metric that decides, e.g. accuracy.")] = None,
    at_least: Annotated[float | None, typer.Option(help="Smallest value of the metric.")] = None,
    at_most: Annotated[float | None, typer.Option(help="Largest value of the metric.")] = None,
    not_worse_by: Annotated[
        float | None, typer.Option(help="Largest loss against the current version.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="File to evaluate on; training's metrics by default.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone that serves the alias.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the rule.")] = False,
    as_json: Json = False,
) -> None:
    """Show or change the promotion rule of an alias."""
    from adapterhub.registry.aliases import AliasRule

    name, alias = _alias_of(ref)
    registry = open_registry()
    given = AliasRule(
        metric=metric,
        at_least=at_least,
        at_most=at_most,
        not_worse_by=not_worse_by,
        data=str(data.resolve()) if data else None,
        backbone=backbone,
    )
    if clear:
        registry.set_rule(name, alias, None)
    elif given != AliasRule():
        registry.set_rule(name, alias, given)
    found = registry.rule(name, alias)
    document = asdict(found) if found else None
    bounds = {k.replace("_", " "): v for k, v in (document or {}).items() if v is not None}
    words = ", ".join(f"{key} {value}" for key, value in bounds.items())
    line = f"{name}@{alias}: {words or 'the adapter must load on its backbone'}"
    print_result(document, line, as_json=as_json)


def promote(
    ref: Ref,
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="Alias to move, e.g. prod")],
    why: Why = "",
    force: Annotated[
        bool, typer.Option("--force", help="Move it despite failed checks; needs --why.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Point an alias to a version that passes its rule."""
    silence_libraries()
    from adapterhub.workflows.promote import promote as run_gate

    verdict = run_gate(open_registry(), ref, to, why=why, force=force, device=device)
    place = f"{verdict.version.name}@{to}"
    moved = verdict.passed or verdict.forced
    if as_json:
        print_json(
            {
                "ref": str(verdict.version.ref),
                "alias": to,
                "passed": verdict.passed,
                "forced": verdict.forced,
                "checks": [asdict(check) for check in verdict.checks],
                "move": asdict(verdict.move) if verdict.move else None,
            }
        )
    else:
        for check in verdict.checks:
            mark = "passed" if check.passed else "FAILED"
            say(f"{mark}  {check.what}: {check.found}")
        now = f"points to version {verdict.version.version}" if moved else "was not moved"
        note = " (forced, as the log records)" if verdict.forced else ""
        say(f"{place} {now}{note}")
    if not moved:
        raise typer.Exit(GATE_CLOSED)


def rollback(ref: AliasRef, why: Why = "", as_json: Json = False) -> None:
    """Point an alias back to its previous version."""
    name, alias = _alias_of(ref)
    _show_move(open_registry().rollback(name, alias, why=why), as_json=as_json)


def log(
    ref: Annotated[
        str | None, typer.Argument(metavar="NAME[@ALIAS]", help="Adapter or alias; all by default.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the history of aliases."""
    parsed = parse_ref(ref) if ref else None
    moves = open_registry().history(
        parsed.name if parsed else None, parsed.alias if parsed else None, limit=limit
    )
    if as_json:
        print_json([asdict(move) for move in moves])
        return
    if not moves:
        output().print("no alias was moved yet")
        return
    shown = table("time", "alias", ">from", ">to", "who", "why")
    for move in moves:
        shown.add_row(
            move.time[:19].replace("T", " "),
            f"{move.name}@{move.alias}",
            str(move.from_version or ""),
            str(move.to_version or "removed"),
            move.who,
            move.why,
        )
    output().print(shown)


def _show_move(move: AliasMove, *, as_json: bool) -> None:
    place = f"{move.name}@{move.alias}"
    if move.to_version is None:
        line = f"removed {place}, which pointed to version {move.from_version}"
    else:
        before = f" (before: {move.from_version})" if move.from_version else ""
        line = f"{place} points to version {move.to_version}{before}"
    print_result(asdict(move), line, as_json=as_json)


def _alias_of(text: str) -> tuple[str, str]:
    ref = parse_ref(text)
    if ref.alias is None:
        raise RefError("names no alias", place=text, hint=f"Write {ref.name}@prod")
    return ref.name, ref.alias
