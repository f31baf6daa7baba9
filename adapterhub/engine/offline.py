"""An engine's answers to whole lists, for callers that wait for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.engine.outputs import CompletionOutput, RequestOutput
from adapterhub.engine.pooling_requests import one_each
from adapterhub.engine.requests import Request
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Rows

    from torch import Tensor

    from adapterhub.engine.pooling import Pooling
    from adapterhub.engine.pooling_requests import (
        Adapters,
        Each,
        EmbedRequest,
        HeadName,
        LabelRequest,
        PoolingRequest,
    )
    from adapterhub.engine.requests import PreparedPrompt


class WholeLists(ABC):
    """Asks for every row of a list, and takes steps until all are answered."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any row waits or runs."""

    @abstractmethod
    def step(self) -> Any:
        """Compute one step."""

    @abstractmethod
    def add(
        self,
        prompt: str | Rows[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> Request:
        """Let a request join at the next step."""

    @abstractmethod
    def add_labeling(
        self,
        text: str | Mapping[str, Any],
        adapters: Adapters,
        *,
        kind: HeadName = "sequence",
    ) -> LabelRequest:
        """Let a text be labelled in the next passes."""

    @abstractmethod
    def add_embedding(
        self,
        text: str | Rows[int],
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> EmbedRequest:
        """Let a text be embedded in one of the next passes."""

    def generate(
        self,
        prompts: Rows[str | Rows[int]],
        adapters: Rows[Adapters],
        params: SamplingParams | Rows[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """CompletionOutput prompts, each with its own adapter, and wait for all of them.

        Args:
            prompts: text or token ids.
            adapters: of each prompt, as in ``add``.
            params: settings of all prompts, or of each.

        Returns:
            One completion a prompt. One that fails has an ``error``, and disturbs no other.

        Raises:
            ValueError: when the arguments have different lengths.
        """
        each = (
            [params] * len(prompts)
            if params is None or isinstance(params, SamplingParams)
            else params
        )
        asked = [self._try_add(*one) for one in zip(prompts, adapters, each, strict=True)]
        while self.busy:
            self.step()
        return [one.completion() if isinstance(one, Request) else one for one in asked]

    def classify(
        self, texts: Rows[str | Mapping[str, Any]], adapters: Each
    ) -> list[dict[str, Any]]:
        """Return a label for each text or picture: ``{"label", "score", "scores"}``.

        Args:
            texts: themselves, or rows with ``text`` and maybe ``text_pair``, or with ``image``.
            adapters: one for each text, or a name for all.

        Raises:
            AdapterHubError: of the first text that could not be labelled, after all others are.
        """
        return self._label(texts, adapters, "sequence")

    def tag(self, texts: Rows[str | Mapping[str, Any]], adapters: Each) -> list[dict[str, Any]]:
        """Return the spans of each text: ``{"spans": [{"label", "start", "end", ...}]}``.

        Args:
            texts: themselves, or rows with ``text`` or ``tokens``; long ones are read in parts.
            adapters: one for each text, or a name for all.

        Raises:
            AdapterHubError: of the first text that could not be labelled, after all others are.
        """
        return self._label(texts, adapters, "token")

    def answer(self, rows: Rows[Mapping[str, Any]], adapters: Each) -> list[dict[str, Any]]:
        """Return the part of each context that answers its question.

        That is ``{"answer", "start", "end", "score", "no_answer"}`` as the task's ``join`` gives
        it, with offsets in characters.

        Args:
            rows: with ``question`` and ``context``; long contexts are read in windows.
            adapters: one for each row, or a name for all.

        Raises:
            AdapterHubError: of the first row that could not be read, after all others are.
        """
        return self._label(rows, adapters, "span")

    def embed(
        self,
        texts: Rows[str],
        adapters: Each | None = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> Tensor:
        """Return a vector for each text, ``[texts, hidden]`` in float32 on the CPU.

        Args:
            texts: at least one.
            adapters: one for each text, a name for all, or ``None`` for the bare backbone.
            pooling: the mean of all tokens, or the last token.
            normalize: to length 1.

        Raises:
            AdapterHubError: of the first text that could not be embedded, after all others are.
        """
        asked = [
            self.add_embedding(text, adapter, pooling=pooling, normalize=normalize)
            for text, adapter in one_each(texts, adapters)
        ]
        self._run(asked)
        return torch.stack([request.value() for request in asked])

    def _label(
        self, texts: Rows[str | Mapping[str, Any]], adapters: Each, kind: HeadName
    ) -> list[dict[str, Any]]:
        asked = [
            self.add_labeling(text, each or (), kind=kind)
            for text, each in one_each(texts, adapters)
        ]
        self._run(asked)
        return [request.answer() for request in asked]

    def _run(self, asked: Rows[PoolingRequest]) -> None:
        while not all(request.finished for request in asked):
            self.step()

    def _try_add(
        self, prompt: str | Rows[int], adapters: Adapters, params: SamplingParams | None
    ) -> Request | RequestOutput:
        try:
            return self.add(prompt, adapters, params)
        except AdapterHubError as error:
            count = (params or SamplingParams()).n
            return RequestOutput((CompletionOutput((), "", "error", error=error),) * count, 0, 0)
