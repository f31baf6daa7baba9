"""What the resolver sees of vLLM, without vLLM: names, locks and an engine that loads LoRAs."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

from adapterhub.integrations.vllm import AdapterResolver, VllmTypes


class Refusal(Exception):
    """A response with status 400."""


class Failure(Exception):
    """A response with another status."""


@dataclass(frozen=True)
class Lora:
    lora_name: str
    lora_int_id: int
    lora_path: str


TYPES = VllmTypes(request=Lora, refusal=Refusal, failure=Failure)


@dataclass
class Models:
    """``OpenAIServingModels``, of vLLM 0.32, as far as resolvers are concerned."""

    resolver: AdapterResolver
    model: str = "someone/tiny"
    max_lora_rank: int | None = 16
    loaded: list = field(default_factory=list)
    fails: bool = False

    def __post_init__(self):
        self.lora_requests = {}
        self.lora_resolver_lock = defaultdict(asyncio.Lock)
        self.model_config = SimpleNamespace(model=self.model, revision=None)
        lora = SimpleNamespace(max_lora_rank=self.max_lora_rank) if self.max_lora_rank else None
        self.engine_client = SimpleNamespace(
            add_lora=self.add_lora, vllm_config=SimpleNamespace(lora_config=lora)
        )
        self.resolver.attach(self)

    async def add_lora(self, lora):
        if self.fails:
            raise ValueError("the worker cannot load it")
        self.loaded.append(lora.lora_name)

    async def resolve(self, name):
        """Return the LoRA of a request for a name; ``None`` is a response with status 404."""
        if name in self.lora_requests:
            return self.lora_requests[name]
        async with self.lora_resolver_lock[name]:
            lora = await self.resolver.resolve_lora(self.model, name)
            if lora is not None:
                await self.add_lora(lora)
                self.lora_requests[name] = lora
            return lora
