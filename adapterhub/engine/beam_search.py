"""Search for the likeliest answers of an encoder-decoder, by transformers' own ``generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from greenlet import getcurrent, greenlet
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from adapterhub.engine.forward_context import set_forward_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.engine.forward_context import ForwardContext
    from adapterhub.engine.sampling.state import SamplingState
    from adapterhub.tasks.token_rules import ProcessorRules, TokenRules


class BeamSearch:
    """A search that computes one token of every beam at a time, so that other requests advance.

    ``generate`` runs in a greenlet, on the thread that steps the engine, and is left after each
    token. A search that is dropped ends there.

    Args:
        model: transformers' class for an encoder-decoder.
        sources: Returns what the encoder reads, by the names of its arguments.
        prompts: Token ids that the decoder reads before the answers, of equal length.
        state: Sampling parameters and end tokens of all sequences.
        context: Adapters of the sequences.
        pad_token: Token id of padding.
        rules: Excludes tokens that may not come next.
    """

    def __init__(
        self,
        model: Any,
        sources: Callable[[], Mapping[str, Tensor]],
        prompts: Sequence[Sequence[int]],
        state: SamplingState,
        context: ForwardContext,
        *,
        pad_token: int,
        rules: TokenRules | ProcessorRules | None = None,
    ) -> None:
        self._model, self._sources, self._prompts = model, sources, prompts
        self._state, self._context, self._pad_token = state, context, pad_token
        self._rules = rules
        self._greenlet = greenlet(self._search)

    def step(self) -> list[list[int]] | None:
        """Compute a token of every beam.

        Returns:
            The best answer to each source, with its end token where it has one, or ``None`` if
            the search goes on.
        """
        # an error of the search is raised by the greenlet that switches to it
        self._greenlet.parent = getcurrent()
        found: list[list[int]] | None = self._greenlet.switch()
        return found

    def _search(self) -> list[list[int]]:
        params, ends = self._state.params, sorted(self._state.end_ids)
        settings = GenerationConfig(
            num_beams=params.num_beams,
            length_penalty=params.length_penalty,
            max_new_tokens=params.max_tokens,
            min_new_tokens=params.min_tokens or None,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=self._pad_token,
            # else transformers puts a first token before prompts that begin otherwise
            decoder_start_token_id=[prompt[0] for prompt in self._prompts],
        )
        first = torch.tensor([list(prompt) for prompt in self._prompts], device=self._model.device)
        # a greenlet has context variables of its own
        with set_forward_context(self._context):
            # a class of recordings has a loop over windows around it
            found = GenerationMixin.generate(
                self._model,
                **self._sources(),
                generation_config=settings,
                logits_processor=self._processors(),
                decoder_input_ids=first,
                stopping_criteria=StoppingCriteriaList([_Pause()]),
            )
        return [_until_end(row, ends) for row in found[:, first.shape[1] :].tolist()]

    def _processors(self) -> LogitsProcessorList | None:
        if self._rules is None:
            return None
        return LogitsProcessorList(self._rules.processors(self._model.device))


class _Pause(StoppingCriteria):
    """Leaves the search after each token, and never ends it."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        stepping = getcurrent().parent
        if stepping is not None:
            stepping.switch(None)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    at = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: at + 1]
