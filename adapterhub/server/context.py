"""What the routes of a server share, and what one request brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from adapterhub.engine.requests import reads_pictures
from adapterhub.server.prompts import ChatPrompts
from adapterhub.server.token_texts import TokenTexts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from adapterhub.access import Caller
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.async_engine import AsyncEngine
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.requests import PromptProcessor
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.registry import Registry
    from adapterhub.server.access import Access
    from adapterhub.server.metrics import Metrics
    from adapterhub.server.models import LoadedNames, Models
    from adapterhub.server.settings import ServerSettings
    from adapterhub.server.task_prompts import TaskPrompts


@dataclass(frozen=True, slots=True)
class Texts:
    """What a server that reads texts has.

    Args:
        chats: renders conversations.
        tokens: writes tokens as text.
    """

    chats: ChatPrompts
    tokens: TokenTexts

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, reader: PromptProcessor) -> Self:
        """Return it for a tokenizer, and what reads prompts by it."""
        return cls(ChatPrompts(tokenizer, reader), TokenTexts(tokenizer))


@dataclass(slots=True)
class Server:
    """One backbone behind HTTP; kept in ``app.state.server``.

    Args:
        engine: that computes.
        registry: of this machine.
        loader: fetches what the registry holds.
        backbone: that is served.
        settings: of the server.
        sizes: of the engine.
        access: who may ask for what, and when.
        metrics: counts.
        loaded: names given while it runs.
        models: resolves what requests ask for.
        texts: conversations and tokens; ``None`` where the backbone reads pictures.
        tasks: writes rows as their task's prompts.
    """

    engine: AsyncEngine
    registry: Registry
    loader: AdapterLoader
    backbone: Backbone
    settings: ServerSettings
    sizes: EngineConfig
    access: Access
    metrics: Metrics
    loaded: LoadedNames
    models: Models
    texts: Texts | None
    tasks: TaskPrompts
    #: set when the server is told to end
    draining: bool = False
    #: addresses of adapters that are pulled from a Hub now
    pulling: set[str] = field(default_factory=set)

    @property
    def chats(self) -> ChatPrompts:
        """Renders conversations.

        Raises:
            RequestError: when the backbone reads pictures.
        """
        return self._texts.chats

    @property
    def tokens(self) -> TokenTexts:
        """Writes tokens as text.

        Raises:
            RequestError: when the backbone reads pictures.
        """
        return self._texts.tokens

    @property
    def _texts(self) -> Texts:
        if self.texts is None:
            raise reads_pictures()
        return self.texts

    @property
    def context_length(self) -> int:
        """Most positions of a prompt and its answer together."""
        longest = int(getattr(self.backbone.config, "max_position_embeddings", 0) or 2**31)
        return min(longest, self.sizes.kv_cache_tokens)


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through a route.

    Args:
        server: that answers.
        caller: who asks.
        request_id: that the answer and the logs carry.
        path: parts of the address.
        query: of the address.
    """

    server: Server
    caller: Caller
    request_id: str
    path: Mapping[str, str]
    query: Mapping[str, str]
