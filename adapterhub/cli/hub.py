"""``hub``: serve the registry to the Hub's own clients, and the tokens for that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, table
from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

    from adapterhub.hub.server import TokenInfo, Tokens

Json = Annotated[bool, typer.Option("--json")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    hub = typer.Typer(help="Serve the registry as a private Hub.", no_args_is_help=True)
    hub.command()(serve)
    token = typer.Typer(help="Who may read and write.", no_args_is_help=True)
    token.command("add")(add_token)
    token.command("list")(list_tokens)
    token.command("rm")(remove_token)
    hub.add_typer(token, name="token")
    app.add_typer(hub, name="hub")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8600,
    anonymous_read: Annotated[
        bool, typer.Option(help="Let public repositories be read without a token.")
    ] = True,
) -> None:
    """Serve the registry over the Hub's protocol; clients set HF_ENDPOINT to its address."""
    server = _server()
    settings = replace(server.HubSettings(), anonymous_read=anonymous_read)
    output().print(f"clients: export HF_ENDPOINT=http://{host}:{port}")
    server.serve(None, host, port, settings)


def add_token(
    user: Annotated[str, typer.Argument(help="Whose token it is.")],
    scopes: Annotated[list[str], typer.Argument(help="read:*, read:OWNER or write:OWNER")],
    as_json: Json = False,
) -> None:
    """Make a token and show it, once; only its hash is kept."""
    token = _tokens().add(user, [_server().parse_scope(scope) for scope in scopes])
    if as_json:
        print_json({"token": token})
        return
    typer.echo(token)
    typer.echo("It is not shown again. Clients: export HF_TOKEN=…", err=True)


def list_tokens(as_json: Json = False) -> None:
    """List tokens: whose they are and what they allow, not the tokens."""
    found = _tokens().list()
    if as_json:
        print_json([_document(info) for info in found])
        return
    if not found:
        output().print("no tokens; make one with: adapterhub hub token add USER read:* write:USER")
        return
    rows = table("id", "user", "scopes", "created")
    for info in found:
        created = info.created[:16].replace("T", " ")
        rows.add_row(info.id, info.user, ", ".join(map(str, info.scopes)), created)
    output().print(rows)


def remove_token(
    token_id: Annotated[str, typer.Argument(help="As hub token list shows it.")],
    as_json: Json = False,
) -> None:
    """Make a token worthless."""
    _tokens().remove(token_id)
    if as_json:
        print_json({"removed": token_id})
        return
    output().print(f"removed {token_id}")


def _server() -> ModuleType:
    try:
        from adapterhub.hub import server
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error
    return server


def _tokens() -> Tokens:
    server = _server()
    tokens: Tokens = server.Tokens(server.RepoStore().database)
    return tokens


def _document(info: TokenInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "user": info.user,
        "scopes": [str(scope) for scope in info.scopes],
        "created": info.created,
    }
