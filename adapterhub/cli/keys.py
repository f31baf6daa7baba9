"""Command ``key``: API keys of the server and the Hub endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import minute, output, print_json, print_result, table
from adapterhub.cli.options import Json, open_registry

if TYPE_CHECKING:
    from adapterhub.access import ApiKey


def create_key(
    name: Annotated[str, typer.Argument(help="User or purpose of the key.")],
    role: Annotated[
        str | None,
        typer.Option(help="Role: use or manage; use without --scope.", show_default=False),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Right on the private Hub: read:*, read:OWNER, write:OWNER."),
    ] = None,
    adapters: Annotated[
        str | None, typer.Option(help="Allowed adapters: name,name@prod,owner/*; all by default.")
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Concurrent requests.")] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print it once."""
    from adapterhub.access import open_keys, parse_role, parse_scope
    from adapterhub.access.keys import id_of_key

    listed = None if adapters is None else [each.strip() for each in adapters.split(",")]
    scopes = [parse_scope(each) for each in scope or ()]
    key = open_keys(open_registry()).create(
        name,
        parse_role(role) if role else None if scopes else "use",
        scopes=scopes,
        adapters=listed,
        rate=rate,
        concurrency=concurrency,
    )
    if as_json:
        print_json({"id": id_of_key(key), "key": key})
        return
    typer.echo(key)
    variable = "HF_TOKEN" if scopes else "OPENAI_API_KEY"
    typer.echo(f"It is not shown again. Clients: export {variable}=…", err=True)


def list_keys(as_json: Json = False) -> None:
    """List API keys."""
    from adapterhub.access import open_keys

    found = open_keys(open_registry()).list()
    if as_json:
        print_json([_key_document(key) for key in found])
        return
    if not found:
        output().print("no keys; create one with: adapterhub key create NAME")
        return
    shown = table(
        "id", "name", "role", "scopes", "adapters", ">per minute", ">concurrent", "created"
    )
    for key in found:
        caller = key.caller
        shown.add_row(
            key.id,
            key.name,
            caller.role or "",
            ", ".join(sorted(map(str, caller.scopes))),
            "all" if caller.adapters is None else ", ".join(caller.adapters),
            str(caller.rate or "any"),
            str(caller.concurrency or "any"),
            minute(key.created),
        )
    output().print(shown)


def remove_key(
    key_id: Annotated[str, typer.Argument(help="Id from key list.")], as_json: Json = False
) -> None:
    """Revoke an API key."""
    from adapterhub.access import open_keys

    open_keys(open_registry()).remove(key_id)
    print_result({"removed": key_id}, f"removed {key_id}", as_json=as_json)


def _key_document(key: ApiKey) -> dict[str, Any]:
    caller = key.caller
    return {
        "id": key.id,
        "name": key.name,
        "role": caller.role,
        "scopes": sorted(map(str, caller.scopes)),
        "adapters": None if caller.adapters is None else list(caller.adapters),
        "rate": caller.rate,
        "concurrency": caller.concurrency,
        "created": key.created,
    }
