"""Ray Serve: many replicas of a server, with requests routed to replicas that have their adapter.

    serve run adapterhub.integrations.ray:build_app backbone=smollm2-135m-instruct replicas=4

An ingress receives requests and resolves aliases to digests, so that all replicas agree. Ray's
multiplexing then prefers a replica that used the adapter before, and takes another one when those
are full. Each replica is a whole ``adapterhub serve``: backbones, engines and the same routes.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request  # noqa: TC002, Ray reads the annotation
from starlette.responses import Response, StreamingResponse

from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.errors import MissingExtraError, QueueFull
from adapterhub.http.errors import HTTPError, too_large
from adapterhub.registry import Registry
from adapterhub.server.app import create_app
from adapterhub.server.forwarding import ForwardedRequest, respond_to, with_retries
from adapterhub.server.pinning import pin_model
from adapterhub.server.responses import error_response
from adapterhub.server.serving import open_server
from adapterhub.server.settings import ServerSettings, load_settings
from adapterhub.specs import QuantizationSpec

try:
    from ray import serve
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import BackPressureError
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle
    from starlette.types import Message

#: Routes that change one server only, which no other replica would learn of.
_ONE_SERVER = (
    "/v1/adapters/load",
    "/v1/adapters/unload",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
)
#: Response header with the id of the replica that answered.
REPLICA_HEADER = b"x-replica-id"
#: Seconds after which a request that waits because all queues are full can be sent again.
_RETRY_AFTER = 1.0


class RaySettings(BaseModel):
    """Settings of an application; all others are those of ``adapterhub serve``.

    Args:
        replicas: Number of replicas, or smallest number with ``max_replicas``.
        max_replicas: Largest number of replicas; the number follows the length of the queues.
        target_ongoing_requests: Requests of a replica that autoscaling aims at.
        max_ongoing_requests: Requests of a replica above which others take its adapters' requests.
        max_queued_requests: Requests that wait in the ingress; further ones get the status 429.
        adapters_per_replica: Adapters that a replica is taken to have in memory.
        cpus: Processors of a replica.
        gpus: GPUs of a replica.
        shutdown_seconds: Seconds that running requests get when a replica stops.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    target_ongoing_requests: float = Field(default=16.0, gt=0.0)
    max_ongoing_requests: int = Field(default=64, ge=1)
    max_queued_requests: int = Field(default=1024, ge=1)
    adapters_per_replica: int = Field(default=64, ge=1)
    cpus: float = Field(default=1.0, ge=0.0)
    gpus: float = Field(default=0.0, ge=0.0)
    shutdown_seconds: float = Field(default=30.0, ge=0.0)

    @property
    def server(self) -> ServerSettings:
        """Settings of the server in each replica."""
        # Ray's proxy may listen on any address, so without a key nothing is allowed by default
        return load_settings({"host": "0.0.0.0", **(self.model_extra or {})}).settings


def build_app(settings: RaySettings | Mapping[str, Any]) -> Application:
    """Return the application for ``serve run``.

    Args:
        settings: Settings, or their values by name, as on the command line of ``serve run``.

    Raises:
        SettingsError: When a setting of the server is invalid.
    """
    settings = RaySettings.model_validate(settings)
    server = settings.server
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        scaling = {
            "autoscaling_config": {
                "min_replicas": settings.replicas,
                "max_replicas": settings.max_replicas,
                "target_ongoing_requests": settings.target_ongoing_requests,
            }
        }
    replicas = _replica_deployment(settings.adapters_per_replica).options(
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        **scaling,
    )
    ingress = serve.deployment(Ingress).options(
        # the replicas limit the requests that run
        max_ongoing_requests=settings.max_queued_requests + 1,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(replicas.bind(server), server)


def _replica_deployment(adapters: int) -> Any:
    """Return the deployment of replicas that report their last ``adapters`` adapters to Ray."""

    class AdapterReplica(Replica):
        """A replica whose adapters Ray knows."""

        @serve.multiplexed(max_num_models_per_replica=adapters)  # type: ignore[untyped-decorator]
        async def note_adapters(self, digests: str) -> str:
            """Report that this replica has adapters; its engine loads and evicts them."""
            return digests

    return serve.deployment(AdapterReplica)


class Replica:
    """One server with its backbones and engines.

    Args:
        settings: Settings of the server.
    """

    async def __init__(self, settings: ServerSettings) -> None:  # type: ignore[misc]
        device = choose_device(settings.device)
        spec = QuantizationSpec(settings.quantization, default_compute_dtype(device))
        loads = [
            partial(load_backbone, name, spec, device=str(device)) for name in settings.backbone
        ]
        self._stack = AsyncExitStack()
        self._server = await self._stack.enter_async_context(
            open_server(loads, Registry(), settings=settings)
        )
        self._app = create_app(self._server)
        self._id = serve.get_replica_context().replica_id.unique_id.encode()

    async def note_adapters(self, digests: str) -> str:
        """Report that this replica has adapters."""
        raise NotImplementedError

    async def respond(self, request: ForwardedRequest) -> AsyncGenerator[Message, None]:
        """Yield the messages of the response to a request."""
        digests = serve.get_multiplexed_model_id()
        if digests:
            await self.note_adapters(digests)
        async with aclosing(respond_to(self._app, request)) as messages:
            async for message in messages:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (REPLICA_HEADER, self._id)]
                yield message

    async def base_names(self) -> list[str]:
        """Return the names of the backbones."""
        return list(self._server.backbones.names)

    async def __del__(self) -> None:
        """Stop the engines; Ray awaits it when the replica stops."""
        stack = getattr(self, "_stack", None)
        if stack is not None:
            await stack.aclose()


class Ingress:
    """Receives requests, resolves aliases, and forwards to the replicas.

    Args:
        replicas: Handle of the replicas.
        settings: Settings of the server.
    """

    def __init__(self, replicas: DeploymentHandle, settings: ServerSettings) -> None:
        self._replicas = replicas
        self._settings = settings
        self._registry = Registry()
        self._bases: list[str] = []

    async def __call__(self, request: Request) -> Response:
        """Respond to a request."""
        try:
            return await self._forward(request)
        except Exception as error:  # noqa: BLE001, the response says what it was
            return error_response(error)

    async def _forward(self, request: Request) -> Response:
        if request.url.path in _ONE_SERVER:
            raise HTTPError(
                501,
                "is not supported with several replicas, which load adapters as requests use them",
                code="not_supported",
                place=request.url.path,
            )
        body, digests = await self._pin(await self._read(request))
        forwarded = ForwardedRequest.of(request.scope, body)
        replicas = self._replicas.options(stream=True, multiplexed_model_id=digests)

        async def attempt() -> AsyncGenerator[Message, None]:
            response = replicas.respond.remote(forwarded)
            try:
                async for message in response:
                    yield message
            except BackPressureError as error:
                raise QueueFull(
                    "all replicas are busy and the queue is full", retry_after=_RETRY_AFTER
                ) from error
            finally:
                # a client that leaves ends the work of the replica
                response.cancel()

        return await _response(with_retries(attempt, _is_lost))

    async def _read(self, request: Request) -> bytes:
        limit = max(self._settings.max_body_bytes, self._settings.max_audio_bytes)
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large("the body", limit)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _pin(self, body: bytes) -> tuple[bytes, str]:
        if not body:
            return body, ""
        if not self._bases:
            self._bases = await self._replicas.base_names.remote()
        return await asyncio.to_thread(pin_model, body, self._registry, self._bases)


def _is_lost(error: Exception) -> bool:
    """Return whether a replica is gone, in contrast to an exception that it raised."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


async def _response(messages: AsyncGenerator[Message, None]) -> Response:
    """Return the response of messages; an error before the first one is raised here."""
    start = await anext(messages)

    async def content() -> AsyncGenerator[bytes, None]:
        async with aclosing(messages):
            async for message in messages:
                yield message.get("body", b"")

    response = StreamingResponse(content(), start["status"])
    response.raw_headers = [(bytes(name), bytes(value)) for name, value in start["headers"]]
    return response
