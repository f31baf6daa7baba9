"""``alias``, ``log`` and ``rollback``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import output, print_json, table
from adapterhub.errors import RefError
from adapterhub.refs import AdapterRef, parse_ref

if TYPE_CHECKING:
    from adapterhub.registry.aliases import AliasMove

Why = Annotated[str, typer.Option("--why", help="For the history.")]
Json = Annotated[bool, typer.Option("--json")]
OfAlias = Annotated[str, typer.Argument(help="NAME@ALIAS, e.g. topics@prod")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    alias = typer.Typer(help="Move and remove aliases such as prod.", no_args_is_help=True)
    alias.command("set")(set_alias)
    alias.command("rm")(remove_alias)
    app.add_typer(alias, name="alias")
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
