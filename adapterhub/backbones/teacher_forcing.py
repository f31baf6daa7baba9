"""Inputs of an encoder-decoder: padded sources, and targets shifted as transformers shifts them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.backbones.head_model import HeadModel

#: Label of positions that are no target.
_NO_TARGET = -100
#: Largest mean difference of logits, in standard deviations, that is taken for rounding.
_ROUNDING = 0.05


def shifted_right(model: Any, labels: Tensor) -> Tensor:
    """Return the decoder's input for labels ``[batch, length]``, -100 where there is none.

    Each class does it in its own way: BART begins with one token for all, mBART moves the last
    token of a target to its front. Source: ``prepare_decoder_input_ids_from_labels`` of the class,
    or the ``shift_tokens_right`` that its ``forward`` uses.

    Raises:
        BackboneError: If its configuration names no token to begin with.
    """
    try:
        found: Tensor
        if hasattr(model, "prepare_decoder_input_ids_from_labels"):
            found = model.prepare_decoder_input_ids_from_labels(labels=labels)
        else:
            module: Any = inspect.getmodule(type(model))
            ids = model.config.pad_token_id, model.config.decoder_start_token_id
            found = module.shift_tokens_right(labels, *ids)
    except (AttributeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{type(model).__name__} has no first token for its decoder: {error}",
            place="config.json",
            hint="Set decoder_start_token_id and pad_token_id",
        ) from error
    return found


def decoder_prompt(model: Any, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the decoder's input before the first token of a text.

    Args:
        model: Class of an encoder-decoder.
        before: Special tokens before a target text, such as its language.
        after: Special tokens after it, such as the end of text.
    """
    labels = torch.tensor([[*before, *after]], device=model.device)
    shifted: list[int] = shifted_right(model, labels)[0].tolist()
    return shifted[: len(before) + 1]


def teacher_forced_inputs(
    model: Any, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], padding: int
) -> dict[str, Tensor]:
    """Return the inputs with which a class predicts targets, padded on the right.

    Args:
        model: Class of an encoder-decoder.
        sources: Token ids of each source.
        targets: Token ids of each target.
        padding: Token id of padding.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[batch, source_length]``, and ``decoder_input_ids``
        ``[batch, target_length]``; logits at position ``i`` predict the target's token ``i``.
    """
    labels = padded(targets, _NO_TARGET, model.device)
    inputs = source_inputs(sources, padding, model.device)
    return {**inputs, "decoder_input_ids": shifted_right(model, labels)}


def transcript_inputs(
    media: Mapping[str, Tensor],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    padding: int,
) -> dict[str, Tensor]:
    """Return the inputs with which a class predicts transcripts, padded on the right.

    Args:
        media: Input of the encoder; see ``media_inputs``.
        prompts: Token ids that the decoder reads before each transcript.
        targets: Token ids of each transcript.
        padding: Token id of padding, which the decoder does not see in what comes before it.

    Returns:
        ``media`` and ``decoder_input_ids``; logits at position ``len(prompt) - 1 + i`` predict
        the transcript's token ``i``.
    """
    read = [[*p, *target[:-1]] for p, target in zip(prompts, targets, strict=True)]
    device = next(iter(media.values())).device
    return {**media, "decoder_input_ids": padded(read, padding, device)}


def alike(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, together: bool
) -> list[list[int]]:
    """Return the indices of pairs that are computed at once: all, or those of equal lengths."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        key = (0, 0) if together else (len(source), len(target))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def pads_targets(heads: HeadModel) -> bool:
    """Return whether the logits of a target do not depend on padding after it.

    They do in a class that lets its decoder see later tokens, as ProphetNet's does. One short
    target is computed both ways.
    """
    source, target = [3, 4, 5, 6], [5, 6, 7]
    both = []
    for targets in ([target], [target, [*target, 8, 9, 10]]):
        inputs = teacher_forced_inputs(
            heads.model, [source] * len(targets), targets, heads.padding_token
        )
        with torch.no_grad():
            both.append(heads.forward(inputs)[0, : len(target)].float())
    alone, padded_one = both
    return bool((padded_one - alone).abs().mean() <= _ROUNDING * alone.std())


def source_inputs(
    sources: Sequence[Sequence[int]], padding: int, device: torch.device
) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` of sources, padded on the right."""
    ones = [[1] * len(source) for source in sources]
    return {
        "input_ids": padded(sources, padding, device),
        "attention_mask": padded(ones, 0, device),
    }


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Return rows of integers as one int64 matrix, filled up at the end."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], device=device)
