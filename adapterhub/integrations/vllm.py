"""vLLM plugin: ``vllm serve --enable-lora`` serves the adapters of a registry by reference.

A request for ``support@prod`` is answered by the version that the alias means. What vLLM caches is
keyed by digest: the name and the number of a LoRA come from the digest of its artifact, so neither
its weights nor its prefix cache are ever those of another version. Names are followed: an alias
that moves is replaced within ``ADAPTERHUB_POLL_SECONDS`` and the time that loading takes.

Sources: ``entrypoints/openai/models/serving.py`` and ``plugins/__init__.py`` of vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import (
    AdapterHubError,
    IntegrityError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
    TransferError,
)
from adapterhub.integrations.vllm_checks import ServedModel, check_servable
from adapterhub.refs import parse_blend, parse_ref

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from adapterhub.hub.artifact_folders import ArtifactFolders, ResolvedArtifact

_LOG = logging.getLogger(__name__)
#: Numbers of LoRAs begin here; vLLM counts its own from 1. They have to fit 31 bits.
FIRST_NUMBER = 2**30
#: Seconds after which a name is resolved anew by the next request that uses it, so that vLLM does
#: not keep the names of all adapters that were ever used.
FORGET_SECONDS = 600.0
_BUSY = 503


@dataclass(frozen=True, slots=True)
class VllmTypes:
    """What the resolver needs of vLLM.

    Args:
        request: Makes a ``LoRARequest`` from name, number and folder; its number cannot be changed.
        refusal: Makes the exception for a response with status 400.
        failure: Makes the exception for a response with a status.
    """

    request: Callable[[str, int, str], Any]
    refusal: Callable[[str], Exception]
    failure: Callable[[str, int], Exception]


@dataclass(slots=True)
class _Followed:
    """A name that vLLM knows.

    Args:
        resolved: What it means.
        since: Time since when, by ``time.monotonic``.
    """

    resolved: ResolvedArtifact
    since: float


class AdapterResolver:
    """Resolves the names of LoRAs for vLLM, and follows the names that vLLM keeps.

    Its methods run on the event loop of vLLM's API server; files and networks are used in a thread.

    Args:
        folders: Registry or Hub that adapters are read from.
        types: vLLM's types.
        poll_seconds: Time between two looks at what the known names mean.
    """

    def __init__(
        self, folders: ArtifactFolders, types: VllmTypes, *, poll_seconds: float = 2.0
    ) -> None:
        self._folders = folders
        self._types = types
        self._poll_seconds = poll_seconds
        self._models: Any = None
        self._served: Future[ServedModel] | None = None
        self._followed: dict[str, _Followed] = {}
        self._digests: dict[int, str] = {}
        self._task: asyncio.Task[None] | None = None

    def attach(self, models: Any) -> None:
        """Learn which model is served, and where its server keeps the names of LoRAs.

        Args:
            models: vLLM's ``OpenAIServingModels``.
        """
        self._models = models
        pool = ThreadPoolExecutor(1, "adapterhub-fingerprint")
        self._served = pool.submit(_served_model, models)
        pool.shutdown(wait=False)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any | None:
        """Return the LoRA that a name means now, or ``None`` if there is none.

        Args:
            base_model_name: Ignored; ``attach`` knows more of the model.
            lora_name: Reference of an adapter, such as ``support@prod``.

        Raises:
            VLLMError: When the adapter is refused, or the registry cannot be reached.
        """
        del base_model_name
        try:
            resolved, folder = await asyncio.to_thread(self._prepare, lora_name)
        except (NotFoundError, RefError):
            return None
        except (IntegrityError, SignatureError) as error:
            raise self._types.refusal(str(error)) from error
        except (RegistryError, TransferError) as error:
            raise self._types.failure(str(error), _BUSY) from error
        except AdapterHubError as error:
            raise self._types.refusal(str(error)) from error
        self._followed[lora_name] = _Followed(resolved, time.monotonic())
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        return self._request(resolved, folder)

    def _prepare(self, name: str) -> tuple[ResolvedArtifact, Path]:
        """Resolve a name and check its artifact."""
        _reject_blend(name)
        resolved = self._folders.resolve(parse_ref(name))
        folder = self._folders.fetch(resolved)
        if self._served is None:
            raise RegistryError("vLLM has not started yet", place=name)
        check_servable(folder, self._served.result(), name)
        return resolved, folder

    def _request(self, resolved: ResolvedArtifact, folder: Path) -> Any:
        number = lora_number(resolved.digest)
        if self._digests.setdefault(number, resolved.digest) != resolved.digest:
            raise self._types.refusal(
                f"{resolved.ref}: has the same number {number} as another adapter of this server. "
                "Serve one of them by another server"
            )
        return self._types.request(resolved.ref, number, str(folder))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except Exception:  # noqa: BLE001, a look that fails must not be the last one
                _LOG.exception("the names of adapters could not be compared with the registry")

    async def _look(self) -> None:
        """Compare every known name with the registry."""
        oldest = time.monotonic() - FORGET_SECONDS
        for name, followed in tuple(self._followed.items()):
            if followed.since < oldest:
                await self._forget(name)
                continue
            if name not in self._models.lora_requests:
                # it is being loaded, or was refused by vLLM itself
                continue
            try:
                now = await asyncio.to_thread(self._folders.resolve, parse_ref(name))
            except NotFoundError:
                await self._forget(name)
            except AdapterHubError as error:
                _LOG.warning("%s stays %s: %s", name, followed.resolved.ref, error)
            else:
                self._folders.keep(now.digest)
                if now != followed.resolved:
                    await self._replace(name)

    async def _replace(self, name: str) -> None:
        """Load what a name means now, then let new requests use it.

        Requests that run keep the LoRA that they began with.
        """
        async with self._models.lora_resolver_lock[name]:
            try:
                request = await self.resolve_lora("", name)
                if request is not None:
                    await self._models.engine_client.add_lora(request)
            except Exception as error:  # noqa: BLE001, vLLM raises what its worker raised
                _LOG.warning("%s moved and cannot be served: %s", name, error)
                request = None
            if request is None:
                # the next request resolves it and gets the reason
                self._drop(name)
                return
            self._models.lora_requests[name] = request
        _LOG.info("%s is %s now", name, request.lora_name)

    async def _forget(self, name: str) -> None:
        # under the lock, so that a name that is being loaded is not kept without being followed
        async with self._models.lora_resolver_lock[name]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._followed.pop(name, None)
        self._models.lora_requests.pop(name, None)


def lora_number(digest: str) -> int:
    """Return the number of the LoRA with a digest, the same in every process.

    Args:
        digest: ``sha256:`` and 64 hex digits.
    """
    # every worker of vLLM keeps numbers in 32 bits with a sign
    return FIRST_NUMBER + int(digest.removeprefix("sha256:")[:8], 16) % FIRST_NUMBER


def register() -> None:
    """Register the resolver; the entry point of the plugin, called in every process of vLLM.

    Does nothing without ``ADAPTERHUB_REGISTRY``.

    Raises:
        AdapterHubError: When a setting is invalid or the registry cannot be opened.
    """
    from adapterhub.integrations.vllm_settings import open_folders, read_settings

    settings = read_settings()
    if settings is None:
        return
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    LoRAResolver.register(AdapterResolver)
    resolver = AdapterResolver(
        open_folders(settings), _vllm_types(), poll_seconds=settings.poll_seconds
    )
    LoRAResolverRegistry.register_resolver("adapterhub", resolver)
    _call_after_init(OpenAIServingModels, resolver.attach)


def _vllm_types() -> VllmTypes:
    from http import HTTPStatus

    from vllm.exceptions import GracefulHTTPError, VLLMValidationError
    from vllm.lora.request import LoRARequest

    class DigestLoRARequest(LoRARequest):
        """A LoRA whose number stays that of its digest.

        vLLM numbers the LoRAs of resolvers by a counter of each API server, so that two servers
        give one number to two adapters.
        """

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "lora_int_id":
                super().__setattr__(name, value)

    return VllmTypes(
        request=DigestLoRARequest,
        refusal=VLLMValidationError,
        failure=lambda text, status: GracefulHTTPError(text, HTTPStatus(status)),
    )


def _call_after_init(kind: Any, attach: Callable[[Any], None]) -> None:
    """Call a function with every new instance of a class.

    vLLM gives a resolver no access to the names that it caches, and asks it for unknown ones only.
    """
    init = kind.__init__

    def init_and_attach(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        attach(self)

    kind.__init__ = init_and_attach


def _served_model(models: Any) -> ServedModel:
    """Return what a server serves; the fingerprint of its weights is computed or read."""
    from adapterhub.integrations.vllm_settings import served_folder, served_weights

    model = models.model_config.model
    lora = models.engine_client.vllm_config.lora_config
    folder = served_folder(model, models.model_config.revision)
    return ServedModel(
        name=model,
        is_hub_id=folder is None or str(folder) != model,
        weights=None if folder is None else served_weights(folder),
        max_lora_rank=None if lora is None else lora.max_lora_rank,
    )


def _reject_blend(name: str) -> None:
    if "+" not in name and "*" not in name:
        return
    for ref, _ in parse_blend(name):
        parse_ref(ref)
    raise AdapterHubError(
        "is a blend, and vLLM uses one adapter for a request",
        place=name,
        hint="Merge it with adapterhub compose, or serve it with adapterhub serve",
    )
