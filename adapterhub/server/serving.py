"""Starting a server, and stopping it once requests are finished."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from adapterhub.access import open_keys
from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.http.connections import uvicorn_options
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.server.access import SETTINGS_CALLER, Access
from adapterhub.server.adapter_lifecycle import load
from adapterhub.server.app import create_app
from adapterhub.server.backbones import Backbones, unique_names
from adapterhub.server.context import Server
from adapterhub.server.loaded_backbone import LoadedBackbone
from adapterhub.server.memory_budget import divide
from adapterhub.server.metrics import Metrics
from adapterhub.server.models import AdapterNames
from adapterhub.server.served_backbone import BackboneFacts, ServedBackbone
from adapterhub.server.settings import ServerSettings
from adapterhub.server.upkeep import upkeep
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from socket import socket
    from types import FrameType

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.config import EngineConfig
    from adapterhub.server.served_backbone import LoadWeights, OpenEngine


@asynccontextmanager
async def open_server(
    loads: Sequence[LoadWeights],
    registry: Registry,
    *,
    settings: ServerSettings | None = None,
    access: Access | None = None,
) -> AsyncIterator[Server]:
    """Load backbones, run an engine for each, and provide the server until the block ends.

    Args:
        loads: Functions that load the weights of each backbone; a backbone that was unloaded is
            loaded again by its function.
        registry: Local registry.
        settings: Settings of the server; defaults if not given.
        access: Admission of requests; by the settings if not given.
    """
    settings = settings or ServerSettings()
    access = access or Access(open_keys(registry), settings)
    metrics, loader, backbones = Metrics(), AdapterLoader(registry), Backbones()
    try:
        await _start_all(loads, backbones, settings, loader, metrics)
        async with upkeep(backbones, settings.unload_idle):
            yield Server(
                backbones=backbones,
                registry=registry,
                loader=loader,
                settings=settings,
                access=access,
                metrics=metrics,
                names=AdapterNames(backbones, registry, loader),
            )
    finally:
        for served in backbones:
            await served.close()
        await asyncio.to_thread(loader.close)


async def _start_all(
    loads: Sequence[LoadWeights],
    backbones: Backbones,
    settings: ServerSettings,
    loader: AdapterLoader,
    metrics: Metrics,
) -> None:
    """Load the weights of all backbones, then divide the memory and start the engines."""
    loaded = [await asyncio.to_thread(_load_timed, load) for load in loads]
    configs = divide(settings, [backbone for backbone, _, _ in loaded])
    names = unique_names([facts for _, facts, _ in loaded])
    for name, reload, config in zip(names, loads, configs, strict=True):
        backbone, facts, seconds = loaded.pop(0)
        served = ServedBackbone(name, facts, reload, _opener(name, config, loader, metrics))
        backbones.add(served)
        await served.start(backbone, seconds)


def _load_timed(load: LoadWeights) -> tuple[Backbone, BackboneFacts, float]:
    """Return a backbone, what is known of it, and the seconds that loading it took."""
    began = time.perf_counter()
    backbone = load()
    return backbone, BackboneFacts.of(backbone), time.perf_counter() - began


def _opener(name: str, config: EngineConfig, loader: AdapterLoader, metrics: Metrics) -> OpenEngine:
    """Return a function that starts the engine of a backbone."""

    def start(backbone: Backbone) -> LoadedBackbone:
        on_step = partial(metrics.record_step, name)
        loaded = LoadedBackbone.open(backbone, config, loader, on_step)
        packed = forward_paths(backbone).packed
        metrics.set_paths(name, {"packed": packed, "paged": loaded.core.core.paged})
        return loaded

    return start


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
    """Serve backbones until the process is stopped; see ``run``."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(settings, **options))


async def run(
    settings: ServerSettings,
    *,
    sockets: list[socket] | None = None,
    on_ready: Callable[[Server, str], None] = lambda _server, _url: None,
) -> None:
    """Serve backbones until the process is stopped.

    Args:
        settings: Settings of the server.
        sockets: Sockets that are bound already, instead of the address of the settings.
        on_ready: Function called with the server and its URL when it accepts requests.
    """
    registry = Registry()
    access = Access(open_keys(registry), settings)
    device = choose_device(settings.device)
    spec = QuantizationSpec(settings.quantization, default_compute_dtype(device))
    loads = [partial(load_backbone, name, spec, device=str(device)) for name in settings.backbone]
    async with open_server(loads, registry, settings=settings, access=access) as server:
        with server.calling(SETTINGS_CALLER) as call:
            for ref in settings.adapters:
                await load(call, ref)
        listening = Listener(server)
        serving = asyncio.ensure_future(listening.serve(sockets))
        while not (listening.started or serving.done()):
            await asyncio.sleep(0.01)
        if listening.started:
            on_ready(server, listening.url)
        await serving
