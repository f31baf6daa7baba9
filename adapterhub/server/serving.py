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
from adapterhub.engine.settings import EngineSettings
from adapterhub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.server.app import create_app
from adapterhub.server.context import Server
from adapterhub.server.holding import load
from adapterhub.server.metrics import Metrics
from adapterhub.server.models import LoadedNames, Models
from adapterhub.server.prompts import ChatPrompts
from adapterhub.server.settings import ServerSettings
from adapterhub.server.token_texts import TokenTexts
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from concurrent.futures import Future
    from types import FrameType

    from adapterhub.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.specs import QuantizationScheme

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
    sizes: EngineSettings | None = None,
    access: Access | None = None,
) -> AsyncIterator[Server]:
    """Lend a server around a backbone, whose engine runs until the end.

    Args:
        backbone: that is served.
        registry: of this machine.
        settings: of the server; the defaults where not given.
        sizes: of the engine; the defaults where not given.
        access: who may ask for what; everybody where not given.
    """
    sizes = sizes or EngineSettings()
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
            settings=settings or ServerSettings(),
            sizes=sizes,
            access=access or Access(),
            metrics=metrics,
            loaded=loaded,
            models=Models(backbone, registry, loader, loaded),
            chats=ChatPrompts(backbone.tokenizer, engine.reader),
            tokens=TokenTexts(backbone.tokenizer),
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


def serve(name: str, settings: ServerSettings, **options: Any) -> None:
    """Serve a backbone until the process is told to stop; see ``run``."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(name, settings, **options))


def listener(server: Server) -> Listener:
    """Return what listens for a server."""
    settings = server.settings
    config = uvicorn.Config(
        create_app(server),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_seconds),
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Listener(config, server)


async def run(
    name: str,
    settings: ServerSettings,
    *,
    scheme: QuantizationScheme = "nf4",
    sizes: EngineSettings | None = None,
    adapters: Sequence[str] = (),
    access: Access | None = None,
    on_ready: Callable[[Server, str], None] = lambda _server, _url: None,
) -> None:
    """Serve a backbone until the process is told to stop.

    Args:
        name: of the backbone.
        settings: of the server.
        scheme: how the weights of the backbone are held.
        sizes: of the engine; the defaults where not given.
        adapters: references that are loaded before requests are taken.
        access: who may ask for what; everybody where not given.
        on_ready: called with the address once requests are taken.

    Raises:
        AdapterHubError: why the backbone or an adapter can't be loaded.
    """
    spec = QuantizationSpec(scheme, default_compute_dtype(choose_device(None)))
    backbone = await asyncio.to_thread(load_backbone, name, spec)
    async with open_server(
        backbone, Registry(), settings=settings, sizes=sizes, access=access
    ) as server:
        for ref in adapters:
            await load(server, ref)
        listening = listener(server)
        serving = asyncio.ensure_future(listening.serve())
        while not (listening.started or serving.done()):
            await asyncio.sleep(0.01)
        if listening.started:
            on_ready(server, listening.url)
        await serving
