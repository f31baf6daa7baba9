"""``serve``: one backbone and its adapters over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import hush_libraries
from adapterhub.errors import MissingExtraError
from adapterhub.specs import QuantizationScheme

if TYPE_CHECKING:
    from adapterhub.server.context import Server


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(serve)


def serve(
    backbone: Annotated[str, typer.Option(help="Of the catalog, a Hub id or a folder.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Hold in memory from the start; may be given several times."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    scheme: Annotated[QuantizationScheme, typer.Option(help="nf4, fp4, int8 or none.")] = "nf4",
) -> None:
    """Serve a backbone and every adapter of the registry that was trained on it."""
    hush_libraries()
    try:
        from adapterhub.server.serving import serve as serve_http
        from adapterhub.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error
    settings = replace(ServerSettings(), host=host, port=port)
    serve_http(backbone, settings, scheme=scheme, adapters=adapter or (), on_ready=_tell)


def _tell(server: Server, url: str) -> None:
    """Say where to go next."""
    typer.echo(f"page    {url}/  (the API: {url}/docs, metrics: {url}/metrics)")
    typer.echo(f"client  OpenAI(base_url='{url}/v1', api_key='none'), model='{server.models.base}'")
    typer.echo(f"models  curl {url}/v1/models")
