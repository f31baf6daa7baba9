"""Starting a server, and stopping it once requests are finished."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from adapterhub.access import open_keys
from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.engine import Engine
from adapterhub.http.connections import uvicorn_options
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.server.access import SETTINGS_CALLER, Access
from adapterhub.server.adapter_lifecycle import load
from adapterhub.server.app import create_app
from adapterhub.server.context import Call, Server
from adapterhub.server.metrics import Metrics
from adapterhub.server.models import AdapterNames
from adapterhub.server.prompts import TaskPrompts
from adapterhub.server.settings import ServerSettings
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from socket import socket
    from types import FrameType

    from adapterhub.backbones.backbone import Backbone


@asynccontextmanager
async def open_server(
    backbone: Backbone,
    registry: Registry,
    *,
    settings: ServerSettings | None = None,
    access: Access | None = None,
) -> AsyncIterator[Server]:
    """Run an engine, and provide the server around it until the block ends.

    Args:
        backbone: Backbone that is served.
        registry: Local registry.
        settings: Settings of the server; defaults if not given.
        access: Admission of requests; by the settings if not given.
    """
    settings = settings or ServerSettings()
    access = access or Access(open_keys(registry), settings)
    metrics = Metrics()
    loader = AdapterLoader(registry)
    engine = Engine(backbone, settings.engine(), source=loader)
    packed = forward_paths(backbone).packed
    metrics.set_paths({"packed": packed, "paged": engine.core.paged})
    running = AsyncEngine(engine, on_step=metrics.record_step)
    try:
        yield Server(
            engine=running,
            registry=registry,
            loader=loader,
            backbone=backbone,
            settings=settings,
            access=access,
            metrics=metrics,
            names=AdapterNames(backbone, registry, loader),
            tasks=TaskPrompts(backbone, loader),
        )
    finally:
        await running.close()
        await asyncio.to_thread(loader.close)
        engine.close()


class Listener(uvicorn.Server):
    """uvicorn's server, which lets running requests finish when it is stopped."""

    def __init__(self, server: Server) -> None:
        settings = server.settings
        address: dict[str, Any] = {"host": settings.host, "port": settings.port}
        options = uvicorn_options(settings.connections, settings.log_level)
        super().__init__(uvicorn.Config(create_app(server), **address, **options))
        self._served = server

    @property
    def url(self) -> str:
        """URL of the server."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop normally on a signal; uvicorn would raise it again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for sig in HANDLED_SIGNALS:
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        try:
            yield
        finally:
            for sig in HANDLED_SIGNALS:
                loop.remove_signal_handler(sig)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to shut down."""
        self._served.draining = True
        super().handle_exit(sig, frame)


def serve(settings: ServerSettings, **options: Any) -> None:
    """Serve a backbone until the process is stopped; see ``run``."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(settings, **options))


async def run(
    settings: ServerSettings,
    *,
    sockets: list[socket] | None = None,
    on_ready: Callable[[Server, str], None] = lambda _server, _url: None,
) -> None:
    """Serve a backbone until the process is stopped.

    Args:
        settings: Settings of the server.
        sockets: Sockets that are bound already, instead of the address of the settings.
        on_ready: Function called with the server and its URL when it accepts requests.
    """
    registry = Registry()
    access = Access(open_keys(registry), settings)
    device = choose_device(settings.device)
    spec = QuantizationSpec(settings.quantization, default_compute_dtype(device))
    backbone = await asyncio.to_thread(load_backbone, settings.backbone, spec, device=str(device))
    async with open_server(backbone, registry, settings=settings, access=access) as server:
        for ref in settings.adapters:
            await load(Call(server, SETTINGS_CALLER), ref)
        listening = Listener(server)
        serving = asyncio.ensure_future(listening.serve(sockets))
        while not (listening.started or serving.done()):
            await asyncio.sleep(0.01)
        if listening.started:
            on_ready(server, listening.url)
        await serving
