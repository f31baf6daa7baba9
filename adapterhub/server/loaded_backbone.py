"""A backbone in memory, with its engine and its prompts."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from adapterhub.backbones.memory import return_freed_memory
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.detokenizer import token_bytes
from adapterhub.engine.engine import Engine
from adapterhub.server.prompts import ChatPrompts, TaskPrompts, TokenTexts

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.async_engine import OnStep
    from adapterhub.engine.config import EngineConfig
    from adapterhub.hub.loader import AdapterLoader


@dataclass(eq=False)
class LoadedBackbone:
    """A backbone whose engine runs, until ``close``.

    Args:
        backbone: Backbone that belongs to the engine.
        core: Engine that computes.
        engine: The same engine on a thread of its own.
        tasks: Prompts of instruction-tuned adapters.
    """

    backbone: Backbone
    core: Engine
    engine: AsyncEngine
    tasks: TaskPrompts

    @classmethod
    def open(
        cls, backbone: Backbone, config: EngineConfig, loader: AdapterLoader, on_step: OnStep
    ) -> Self:
        """Build and start the engine of a backbone.

        Args:
            backbone: Backbone.
            config: Sizes and limits of the engine.
            loader: Source of adapters.
            on_step: Called on the engine's thread after each step.
        """
        core = Engine(backbone, config, source=loader)
        tasks = TaskPrompts(backbone, loader)
        return cls(backbone, core, AsyncEngine(core, on_step=on_step), tasks)

    @cached_property
    def chats(self) -> ChatPrompts:
        """Conversations as prompts."""
        reader = self.engine.prompt_processor
        return ChatPrompts(self.backbone.tokenizer, reader)

    @cached_property
    def tokens(self) -> TokenTexts:
        """Single tokens as text."""
        return TokenTexts(self.backbone.tokenizer)

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token."""
        backend: Any = self.backbone.tokenizer.backend_tokenizer
        return max(len(token_bytes(backend, token)) for token in backend.get_vocab().values())

    @property
    def max_position_embeddings(self) -> int:
        """Most tokens that the backbone reads."""
        config = self.backbone.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 2**31)

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return min(self.max_position_embeddings, self.core.config.kv_cache_tokens)

    async def close(self) -> None:
        """End all requests, and stop the engine."""
        await self.engine.close()
        await asyncio.to_thread(self.core.close)


def release_memory() -> None:
    """Free what a closed backbone held; its modules refer to each other in cycles."""
    gc.collect()
    return_freed_memory()
