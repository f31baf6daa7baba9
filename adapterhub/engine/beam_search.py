"""Search for the likeliest answers of an encoder-decoder, by transformers' own ``generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.engine.sampling.state import SamplingState
    from adapterhub.tasks.token_rules import TokenRules


def search_answers(
    model: Any,
    sources: Mapping[str, Tensor],
    prompts: Sequence[Sequence[int]],
    state: SamplingState,
    *,
    pad_token: int,
    rules: TokenRules | None = None,
) -> list[list[int]]:
    """Return the best answer to each source, with its end token where it has one.

    Args:
        model: transformers' class for an encoder-decoder.
        sources: What the encoder reads, by the names of its arguments.
        prompts: Token ids that the decoder reads before the answers, of equal length.
        state: Sampling parameters and end tokens of all sequences.
        pad_token: Token id of padding.
        rules: Excludes tokens that may not come next.
    """
    params, ends = state.params, sorted(state.end_ids)
    settings = GenerationConfig(
        num_beams=params.num_beams,
        length_penalty=params.length_penalty,
        max_new_tokens=params.max_tokens,
        min_new_tokens=params.min_tokens or None,
        do_sample=False,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=pad_token,
        # else transformers puts a first token before prompts that begin otherwise
        decoder_start_token_id=[prompt[0] for prompt in prompts],
    )
    first = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    # a class of recordings has a loop over windows around it
    found = GenerationMixin.generate(
        model,
        **sources,
        generation_config=settings,
        logits_processor=None
        if rules is None
        else LogitsProcessorList(rules.processors(model.device)),
        decoder_input_ids=first,
    )
    return [_until_end(row, ends) for row in found[:, first.shape[1] :].tolist()]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    at = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: at + 1]
