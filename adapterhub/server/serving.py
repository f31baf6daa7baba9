"""Starting a server, deadlines of its connections, and stopping it once requests are finished."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS

from adapterhub.access import open_keys
from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.engine import Engine
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
    from types import FrameType

    from adapterhub.backbones.backbone import Backbone


class DeadlineProtocol(HttpToolsProtocol):
    """HTTP connection that is closed when its client is too slow.

    uvicorn bounds idle connections, but waits forever for the headers of a request and for a
    client to read its response, neither of which an application sees. Without these deadlines,
    clients that send or read nothing keep connections and sequences. Only the callbacks of
    asyncio's protocols and of httptools' parser are extended.
    """

    def __init__(self, settings: ServerSettings, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings = settings
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first headers."""
        super().connection_made(transport)
        self._start_headers(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data and check the size of the headers."""
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer and self._header_bytes > self._settings.max_header_bytes:
            self._reject(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Start the deadline of the headers of a further request."""
        super().on_message_begin()
        if self._header_timer is None:
            self._start_headers(1)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after the body are ignored."""
        if self._header_timer:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Cancel the deadline of the headers and start the request."""
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Start the deadline for the client to read."""
        super().pause_writing()
        timeout = self._settings.write_timeout
        self._write_timer = asyncio.get_running_loop().call_later(timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the deadline for the client to read."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def _start_headers(self, received: int) -> None:
        self._header_bytes = received
        self._header_timer = asyncio.get_running_loop().call_later(
            self._settings.header_timeout, self._reject, b"408 Request Timeout"
        )

    def _reject(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._header_bytes:
            head = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head)
        self.transport.close()


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the options of ``uvicorn.Config`` besides the application and its address."""
    return {
        "http": partial(DeadlineProtocol, settings),
        "ws": "none",
        "limit_concurrency": settings.max_connections,
        "timeout_keep_alive": settings.keep_alive_timeout,
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "server_header": False,
        # the application logs each request, with its adapters and key
        "access_log": False,
        "log_config": None,
        "log_level": settings.log_level,
    }


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
        super().__init__(uvicorn.Config(create_app(server), **address, **uvicorn_options(settings)))
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
    on_ready: Callable[[Server, str], None] = lambda _server, _url: None,
) -> None:
    """Serve a backbone until the process is stopped.

    Args:
        settings: Settings of the server.
        on_ready: Function called with the server and its URL when it accepts requests.
    """
    # access is checked before anything large is loaded
    registry = Registry()
    access = Access(open_keys(registry), settings)
    device = choose_device(settings.device)
    spec = QuantizationSpec(settings.quantization, default_compute_dtype(device))
    backbone = await asyncio.to_thread(load_backbone, settings.backbone, spec, device=str(device))
    async with open_server(backbone, registry, settings=settings, access=access) as server:
        for ref in settings.adapters:
            await load(Call(server, SETTINGS_CALLER), ref)
        listening = Listener(server)
        serving = asyncio.ensure_future(listening.serve())
        while not (listening.started or serving.done()):
            await asyncio.sleep(0.01)
        if listening.started:
            on_ready(server, listening.url)
        await serving
