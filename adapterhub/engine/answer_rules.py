"""Rules for the tokens of an encoder-decoder's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from adapterhub.tasks.token_rules import ProcessorRules

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessorList

    from adapterhub.engine.sequences import Sequence
    from adapterhub.tasks.token_rules import TokenRules


def answer_rules(model: Any, sequence: Sequence) -> ProcessorRules | None:
    """Return the rules for the tokens of an answer, or ``None`` without any.

    An answer that follows a schema or a regular expression follows that alone, and transformers'
    ``generate`` applies the rules to an answer that it searches for.

    Args:
        model: transformers' class, whose ``generation_config`` is the checkpoint's.
        sequence: Sequence with its decoder prompt.
    """
    params, prompt = sequence.state.params, sequence.decoder_prompt
    if params.constrained or (params.num_beams or 1) > 1:
        return None
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        # a penalty of the request replaces the checkpoint's, and the sampler applies it
        repetition_penalty=None if params.repetition_penalty == 1 else 1.0,
        eos_token_id=sorted(sequence.state.end_ids) or None,
    )
    settings, _ = model._prepare_generation_config(settings)
    model._prepare_special_tokens(settings, True, device=model.device, batch_size=1)
    settings.max_length = len(prompt) + params.max_tokens
    found: LogitsProcessorList = model._get_logits_processor(
        settings,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([list(sequence.prompt)], device=model.device),
        device=model.device,
        model_kwargs={},
    )
    return ProcessorRules(found) if found else None


def apply_rules(sequences: list[Sequence], logits: Tensor) -> Tensor:
    """Return logits, float32, from which the rules of each sequence exclude tokens.

    Sequences of one length with equal rules are computed together.

    Args:
        sequences: Sequences of a step, with or without rules.
        logits: ``[num_sequences, vocab_size]``.
    """
    groups: list[tuple[TokenRules | ProcessorRules, list[int], list[list[int]]]] = []
    for index, sequence in enumerate(sequences):
        if sequence.rules is None:
            continue
        tokens = [*sequence.decoder_prompt, *sequence.output_tokens]
        for rules, indices, ids in groups:
            if rules == sequence.rules and len(ids[0]) == len(tokens):
                indices.append(index)
                ids.append(tokens)
                break
        else:
            groups.append((sequence.rules, [index], [tokens]))
    ruled = logits.float().clone()
    for rules, indices, ids in groups:
        ruled[indices] = rules(torch.tensor(ids, device=logits.device), ruled[indices])
    return ruled
