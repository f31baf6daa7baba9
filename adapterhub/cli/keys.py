"""``key`` and ``hub token``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import minute, output, print_json, print_result, table
from adapterhub.cli.options import Json
from adapterhub.registry.registry import Registry

if TYPE_CHECKING:
    from adapterhub.hub.server import TokenInfo, Tokens
    from adapterhub.server.access import ApiKey


def create_key(
    name: Annotated[str, typer.Argument(help="User or purpose of the key.")],
    role: Annotated[str, typer.Option(help="Role: use or manage.")] = "use",
    adapters: Annotated[
        str | None, typer.Option(help="Allowed adapters: name,name@prod,owner/*; all by default.")
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Concurrent requests.")] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print it once."""
    from adapterhub.access.bearer import hash_of, id_of
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
    """List API keys."""
    from adapterhub.server.access import open_keys

    found = open_keys(Registry()).list()
    if as_json:
        print_json([_key_document(key) for key in found])
        return
    if not found:
        output().print("no keys; create one with: adapterhub key create NAME")
        return
    shown = table("id", "name", "role", "adapters", ">per minute", ">concurrent", "created")
    for key in found:
        caller = key.caller
        shown.add_row(
            key.id,
            key.name,
            caller.role,
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
    from adapterhub.server.access import open_keys

    open_keys(Registry()).remove(key_id)
    print_result({"removed": key_id}, f"removed {key_id}", as_json=as_json)


def add_token(
    user: Annotated[str, typer.Argument(help="Name of the user.")],
    scopes: Annotated[list[str], typer.Argument(help="read:*, read:OWNER or write:OWNER")],
    as_json: Json = False,
) -> None:
    """Create an access token and print it once."""
    from adapterhub.hub.server import parse_scope

    token = _tokens().add(user, [parse_scope(scope) for scope in scopes])
    if as_json:
        print_json({"token": token})
        return
    typer.echo(token)
    typer.echo("It is not shown again. Clients: export HF_TOKEN=…", err=True)


def list_tokens(as_json: Json = False) -> None:
    """List access tokens."""
    found = _tokens().list()
    if as_json:
        print_json([_token_document(info) for info in found])
        return
    if not found:
        output().print("no tokens; create one with: adapterhub hub token add USER read:*")
        return
    shown = table("id", "user", "scopes", "created")
    for info in found:
        shown.add_row(info.id, info.user, ", ".join(map(str, info.scopes)), minute(info.created))
    output().print(shown)


def remove_token(
    token_id: Annotated[str, typer.Argument(help="Id from hub token list.")], as_json: Json = False
) -> None:
    """Revoke an access token."""
    _tokens().remove(token_id)
    print_result({"removed": token_id}, f"removed {token_id}", as_json=as_json)


def _tokens() -> Tokens:
    from adapterhub.hub.server import RepoStore, Tokens

    return Tokens(RepoStore().database)


def _key_document(key: ApiKey) -> dict[str, Any]:
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


def _token_document(info: TokenInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "user": info.user,
        "scopes": [str(scope) for scope in info.scopes],
        "created": info.created,
    }
