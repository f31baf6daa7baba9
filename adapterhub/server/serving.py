"""Starting the server, and ending it when all requests that run are answered."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.engine import Engine
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.server.access import open_access
from adapterhub.server.app import create_app
from adapterhub.server.connections import uvicorn_options
from adapterhub.server.context import Server, Texts
from adapterhub.server.holding import load
from adapterhub.server.metrics import Metrics
from adapterhub.server.models import LoadedNames, Models
from adapterhub.server.settings import ServerSettings
from adapterhub.server.task_prompts import TaskPrompts
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future
    from types import FrameType

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.server.access import Access

_LOG = logging.getLogger(__name__)
_DIGEST = "sha256:"


class ResolvedSource:
    """A loader as the engine sees it, which is given digests that the server has resolved.

    The registry is read on the server's threads, so the engine's own never waits for a disk.

    Args:
        loader: that fetches.
    """

    def __init__(self, loader: AdapterLoader) -> None:
        self._loader = loader

    def resolve(self, ref: str) -> str | Future[str]:
        """Return the digest of a reference; a digest stands for itself."""
        return ref if ref.startswith(_DIGEST) else self._loader.resolve(ref)

    def fetch(self, digest: str) -> Future[Artifact]:
        """See ``AdapterLoader.fetch``."""
        return self._loader.fetch(digest)


@asynccontextmanager
async def open_server(
    backbone: Backbone,
    registry: Registry,
    *,
    settings: ServerSettings | None = None,
    access: Access | None = None,
) -> AsyncIterator[Server]:
    """Lend a server around a backbone, whose engine runs until the end.

    Args:
        backbone: that is served.
        registry: of this machine.
        settings: of the server; the defaults where not given.
        access: who may ask for what; as the settings say where not given.

    Raises:
        SettingsError: when the settings would let everybody in who can reach it.
    """
    settings = settings or ServerSettings()
    sizes = settings.engine()
    access = access or open_access(settings, registry)
    metrics, loaded = Metrics(), LoadedNames()
    loader = AdapterLoader(registry)
    engine = Engine(backbone, sizes, source=ResolvedSource(loader))
    running = AsyncEngine(engine, on_step=metrics.on_step)
    try:
        yield Server(
            engine=running,
            registry=registry,
            loader=loader,
            backbone=backbone,
            settings=settings,
            sizes=sizes,
            access=access,
            metrics=metrics,
            loaded=loaded,
            models=Models(backbone, registry, loader, loaded),
            texts=None
            if backbone.kind == "vision"
            else Texts.of(backbone.tokenizer, engine.prompt_processor),
            tasks=TaskPrompts(backbone, loader),
        )
    finally:
        await running.close()
        await asyncio.to_thread(loader.close)
        engine.close()


class Listener(uvicorn.Server):
    """uvicorn's server, which lets requests that run end when it is told to.

    Args:
        config: of uvicorn.
        server: told when the end begins.
    """

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._served = server

    @property
    def url(self) -> str:
        """Address that is listened on."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End by a signal as by itself: uvicorn would raise it again when it is done."""
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
        """Take note of a signal to end."""
        self._served.draining = True
        super().handle_exit(sig, frame)


def serve(settings: ServerSettings, **options: Any) -> None:
    """Serve a backbone until the process is told to stop; see ``run``."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(settings, **options))


def listener(server: Server) -> Listener:
    """Return what listens for a server."""
    settings = server.settings
    config = uvicorn.Config(
        create_app(server), host=settings.host, port=settings.port, **uvicorn_options(settings)
    )
    return Listener(config, server)


async def run(
    settings: ServerSettings,
    *,
    on_ready: Callable[[Server, str], None] = lambda _server, _url: None,
) -> None:
    """Serve a backbone until the process is told to stop.

    Args:
        settings: of the server.
        on_ready: called with the address once requests are taken.

    Raises:
        AdapterHubError: why the backbone or an adapter can't be loaded.
    """
    # who may come in is settled before anything large is loaded
    registry = Registry()
    access = open_access(settings, registry)
    device = choose_device(settings.device)
    spec = QuantizationSpec(settings.quantization, default_compute_dtype(device))
    backbone = await asyncio.to_thread(load_backbone, settings.backbone, spec, device=str(device))
    async with open_server(backbone, registry, settings=settings, access=access) as server:
        for ref in settings.adapters:
            await load(server, ref)
        listening = listener(server)
        serving = asyncio.ensure_future(listening.serve())
        while not (listening.started or serving.done()):
            await asyncio.sleep(0.01)
        if listening.started:
            on_ready(server, listening.url)
        await serving
