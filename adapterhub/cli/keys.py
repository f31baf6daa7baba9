"""``key``: who may use the server, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, table

if TYPE_CHECKING:
    from adapterhub.server.access import ApiKey

Json = Annotated[bool, typer.Option("--json")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    key = typer.Typer(help="Keys for the server: who may use it, and how much.")
    key.command("create")(create_key)
    key.command("list")(list_keys)
    key.command("rm")(remove_key)
    app.add_typer(key, name="key", no_args_is_help=True)


def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    role: Annotated[
        str, typer.Option(help="use, or manage for who may change what is served too.")
    ] = "use",
    adapters: Annotated[
        str | None,
        typer.Option(help="That may be asked for: name,name@prod,owner/*; all if not given."),
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Most requests a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Most requests at once.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once; only its hash is kept."""
    from adapterhub.access.bearer import hash_of, id_of
    from adapterhub.registry import Registry
    from adapterhub.server.access import open_keys
    from adapterhub.server.access.caller import parse_role

    listed = None if adapters is None else [each.strip() for each in adapters.split(",")]
    key = open_keys(Registry()).create(
        name, parse_role(role), adapters=listed, rate=rate, concurrency=concurrency
    )
    if as_json:
        print_json({"id": id_of(hash_of(key)), "key": key})
        return
    typer.echo(key)
    typer.echo("It is not shown again. Clients: export OPENAI_API_KEY=…", err=True)


def list_keys(as_json: Json = False) -> None:
    """List keys: whose they are and what they allow, not the keys."""
    from adapterhub.registry import Registry
    from adapterhub.server.access import open_keys

    found = open_keys(Registry()).list()
    if as_json:
        print_json([_document(key) for key in found])
        return
    if not found:
        output().print("no keys; make one with: adapterhub key create NAME")
        return
    rows = table("id", "name", "role", "adapters", ">a minute", ">at once", "created")
    for key in found:
        caller = key.caller
        rows.add_row(
            key.id,
            key.name,
            caller.role,
            "all" if caller.adapters is None else ", ".join(caller.adapters),
            _limit(caller.rate),
            _limit(caller.concurrency),
            key.created[:16].replace("T", " "),
        )
    output().print(rows)


def remove_key(
    key_id: Annotated[str, typer.Argument(help="As key list shows it.")],
    as_json: Json = False,
) -> None:
    """Make a key worthless, also in servers that run."""
    from adapterhub.registry import Registry
    from adapterhub.server.access import open_keys

    open_keys(Registry()).remove(key_id)
    if as_json:
        print_json({"removed": key_id})
        return
    output().print(f"removed {key_id}")


def _limit(value: int | None) -> str:
    return "any" if value is None else str(value)


def _document(key: ApiKey) -> dict[str, Any]:
    caller = key.caller
    return {
        "id": key.id,
        "name": key.name,
        "role": caller.role,
        "adapters": None if caller.adapters is None else list(caller.adapters),
        "rate": caller.rate,
        "concurrency": caller.concurrency,
        "created": key.created,
    }
