"""``alias``, ``promote``, ``log`` and ``rollback``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import hush_libraries, output, print_json, table
from adapterhub.errors import RefError
from adapterhub.refs import AdapterRef, parse_ref

if TYPE_CHECKING:
    from adapterhub.registry.aliases import AliasMove

#: Exit code of a promotion that did not pass.
GATE_CLOSED = 8

Why = Annotated[str, typer.Option("--why", help="For the history.")]
Json = Annotated[bool, typer.Option("--json")]
OfAlias = Annotated[str, typer.Argument(help="NAME@ALIAS, e.g. topics@prod")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    alias = typer.Typer(help="Move and remove aliases such as prod.", no_args_is_help=True)
    alias.command("set")(set_alias)
    alias.command("rm")(remove_alias)
    alias.command("rule")(rule)
    app.add_typer(alias, name="alias")
    app.command()(promote)
    app.command()(log)
    app.command()(rollback)


def set_alias(
    ref: Annotated[str, typer.Argument(help="The version, e.g. topics@3")],
    alias: Annotated[str, typer.Argument(help="A word, e.g. prod")],
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Point an alias to a version, without asking its rule; see also: promote."""
    from adapterhub.registry.registry import Registry

    registry = Registry()
    move = registry.set_alias(ref, alias, why=why)
    if move is None:
        version = registry.resolve(ref)
        if as_json:
            print_json(None)
        else:
            output().print(f"{version.name}@{alias} points to version {version.version} already")
        return
    _tell(move, as_json=as_json)


def remove_alias(ref: OfAlias, why: Why = "", as_json: Json = False) -> None:
    """Remove an alias; the version that it pointed to stays."""
    from adapterhub.registry.registry import Registry

    name, alias = _alias_of(ref)
    _tell(Registry().remove_alias(name, alias, why=why), as_json=as_json)


def rule(
    ref: OfAlias,
    metric: Annotated[str | None, typer.Option(help="That decides, e.g. accuracy.")] = None,
    at_least: Annotated[float | None, typer.Option(help="Smallest value.")] = None,
    at_most: Annotated[float | None, typer.Option(help="Largest value.")] = None,
    not_worse_by: Annotated[
        float | None, typer.Option(help="May be worse than the present holder by this much.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows to evaluate on; else what training stored counts.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="That serves.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the rule away.")] = False,
    as_json: Json = False,
) -> None:
    """Set, show or clear what promote asks of a version before the alias moves to it."""
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.rules import AliasRule

    name, alias = _alias_of(ref)
    registry = Registry()
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
    if as_json:
        print_json(asdict(found) if found else None)
        return
    asked = (
        {k.replace("_", " "): v for k, v in asdict(found).items() if v is not None} if found else {}
    )
    words = ", ".join(f"{key} {value}" for key, value in asked.items())
    output().print(f"{name}@{alias}: {words or 'only that it loads on its backbone'}")


def promote(
    ref: Annotated[str, typer.Argument(help="The version, e.g. topics@3")],
    to: Annotated[str, typer.Option("--to", help="The alias, e.g. prod")],
    why: Why = "",
    force: Annotated[
        bool, typer.Option("--force", help="Move it although a check fails; needs --why.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
    as_json: Json = False,
) -> None:
    """Move an alias to a version if it passes the alias's rule."""
    hush_libraries()
    from adapterhub.registry.registry import Registry
    from adapterhub.workflows.promote import promote as ask_gate

    verdict = ask_gate(Registry(), ref, to, why=why, force=force, device=device)
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
            typer.echo(f"{mark}  {check.what}: {check.found}")
        now = f"points to version {verdict.version.version}" if moved else "was not moved"
        note = " (forced, which the log tells)" if verdict.forced else ""
        typer.echo(f"{place} {now}{note}")
    if not moved:
        raise typer.Exit(GATE_CLOSED)


def rollback(ref: OfAlias, why: Why = "", as_json: Json = False) -> None:
    """Point an alias to the version that it pointed to before."""
    from adapterhub.registry.registry import Registry

    name, alias = _alias_of(ref)
    _tell(Registry().rollback(name, alias, why=why), as_json=as_json)


def log(
    ref: Annotated[str | None, typer.Argument(help="NAME or NAME@ALIAS; all if none.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most entries.")] = 50,
    as_json: Json = False,
) -> None:
    """Show which aliases were moved: when, by whom, from where to where, and why."""
    from adapterhub.registry.registry import Registry

    parsed = parse_ref(ref) if ref else None
    moves = Registry().history(
        parsed.name if parsed else None, parsed.alias if parsed else None, limit=limit
    )
    if as_json:
        print_json([asdict(move) for move in moves])
        return
    if not moves:
        output().print("no alias was moved yet")
        return
    rows = table("time", "alias", ">from", ">to", "who", "why")
    for move in moves:
        rows.add_row(
            move.time[:19].replace("T", " "),
            f"{move.name}@{move.alias}",
            str(move.from_version or ""),
            str(move.to_version or "removed"),
            move.who,
            move.why,
        )
    output().print(rows)


def _tell(move: AliasMove, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(move))
        return
    place = f"{move.name}@{move.alias}"
    if move.to_version is None:
        output().print(f"removed {place}, which pointed to version {move.from_version}")
    else:
        before = f" (before: {move.from_version})" if move.from_version else ""
        output().print(f"{place} points to version {move.to_version}{before}")


def _alias_of(text: str) -> tuple[str, str]:
    ref: AdapterRef = parse_ref(text)
    if ref.alias is None:
        raise RefError("names no alias", place=text, hint=f"Write {ref.name}@prod")
    return ref.name, ref.alias
