"""``serve`` and ``hub serve``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import output, print_json, say, short_digest, silence_libraries, table
from adapterhub.cli.lean_start import lean_start
from adapterhub.cli.options import Device, Json
from adapterhub.errors import MissingExtraError

if TYPE_CHECKING:
    from adapterhub.server.context import Server
    from adapterhub.server.settings import Configuration


def serve(
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Catalog name, Hub id or folder; repeatable."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Adapter to load at the start; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Host name; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port number; 8000 by default.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Quantization: nf4, fp4, int8 or none.")
    ] = None,
    device: Device = None,
    unload_idle: Annotated[
        float | None, typer.Option(help="Seconds until an idle backbone is unloaded.")
    ] = None,
    anonymous_access: Annotated[
        str | None, typer.Option(help="Access without a key: auto, no, use or manage.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting.")
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print all settings and exit.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve backbones and their adapters over HTTP."""
    silence_libraries()
    try:
        from adapterhub.server.preparation import prepare
        from adapterhub.server.settings import load_settings
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error
    flags = {
        "backbone": backbone,
        "adapters": adapter,
        "host": host,
        "port": port,
        "quantization": quantization,
        "device": device,
        "unload_idle": unload_idle,
        "anonymous_access": anonymous_access,
    }
    found = load_settings(flags, config, assign or ())
    if show_config:
        print_settings(found, as_json=as_json)
        return
    # what is wrong with the settings shows before torch is imported
    sockets = prepare(found.settings)
    with ExitStack() as start:
        start.enter_context(lean_start())
        try:
            from adapterhub.server.request_log import configure_logging
            from adapterhub.server.serving import serve as serve_http
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "starlette", "serve") from error
        configure_logging(found.settings.log_level, prompts=found.settings.log_prompts)

        def show(server: Server, url: str) -> None:
            start.close()
            _show_addresses(server, url)

        serve_http(found.settings, sockets=sockets, on_ready=show)


def serve_hub(
    host: Annotated[str, typer.Option(help="Host name.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port number.")] = 8600,
    anonymous_read: Annotated[
        bool, typer.Option(help="Allow reading public repositories without a token.")
    ] = True,
    public_url: Annotated[
        str, typer.Option(help="URL for links; http://HOST:PORT by default.")
    ] = "",
) -> None:
    """Serve the registry over the Hub's HTTP API."""
    try:
        from adapterhub.hub import server
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error
    settings = server.HubSettings(anonymous_read=anonymous_read, public_url=public_url)
    output().print(f"clients: export HF_ENDPOINT={public_url or f'http://{host}:{port}'}")
    server.serve(None, host, port, settings)


def print_settings(configuration: Configuration, *, as_json: bool = False) -> None:
    """Print every setting with its value and source; secrets are hidden."""
    shown = configuration.shown()
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in shown})
        return
    settings = table("setting", "value", "from")
    for name, value, source in shown:
        settings.add_row(name, _text(value), source)
    output().print(settings)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in (None, "") else str(value)


def _show_addresses(server: Server, url: str) -> None:
    say(f"page    {url}/  (the API: {url}/docs, metrics: {url}/metrics)")
    names = " or ".join(f"'{name}'" for name in server.backbones.names)
    say(f"client  OpenAI(base_url='{url}/v1', api_key='none'), model={names}")
    for name, adapter in server.names.loaded().items():
        say(f"adapter {name} ({short_digest(adapter.digest)})")
    say(f"models  curl {url}/v1/models")
