"""``serve``: one backbone and its adapters over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.cli.console import hush_libraries
from adapterhub.cli.serve_settings import print_settings
from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from adapterhub.server.context import Server


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(serve)


def serve(
    backbone: Annotated[
        str | None, typer.Option(help="Of the catalog, a Hub id or a folder.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Hold in memory from the start; may be given several times."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="8000; 0 for any that is free.")] = None,
    quantization: Annotated[str | None, typer.Option(help="nf4, fp4, int8 or none.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
    anonymous_access: Annotated[
        str | None, typer.Option(help="What needs no key: auto, no, use or manage.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, for every setting that has no flag."),
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Show every setting and its source, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --show-config.")] = False,
) -> None:
    """Serve a backbone and every adapter of the registry that was trained on it."""
    # bitsandbytes has functions compiled by torch's compiler, which the server never calls; loading
    # the compiler would take 1 to 2 of the 9 seconds to the first answer
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    hush_libraries()
    try:
        from adapterhub.server.configuration import load_settings
        from adapterhub.server.logs import configure_logging
        from adapterhub.server.serving import serve as serve_http
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error
    flags = {
        "backbone": backbone,
        "adapters": adapter,
        "host": host,
        "port": port,
        "quantization": quantization,
        "device": device,
        "anonymous_access": anonymous_access,
    }
    found = load_settings(flags, os.environ, config, assign or ())
    if show_config:
        print_settings(found, as_json=as_json)
        return
    configure_logging(found.settings.log_level, prompts=found.settings.log_prompts)
    serve_http(found.settings, on_ready=_tell)


def _tell(server: Server, url: str) -> None:
    """Say where to go next."""
    typer.echo(f"page    {url}/  (the API: {url}/docs, metrics: {url}/metrics)")
    typer.echo(f"client  OpenAI(base_url='{url}/v1', api_key='none'), model='{server.models.base}'")
    typer.echo(f"models  curl {url}/v1/models")
