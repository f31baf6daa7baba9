"""Inputs of transformers' classes that read images or recordings, stacked or padded to a batch."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def audio_shape(base_model: Any, samples: int) -> tuple[int, ...]:
    """Return the shape of the input of an audio model for a recording.

    Args:
        base_model: Model of waveforms, or of spectrograms of a fixed size.
        samples: Number of samples, for models of waveforms.

    Raises:
        BackboneError: If the model reads something else.
    """
    config = base_model.config
    mel, positions = (getattr(config, n, None) for n in ("num_mel_bins", "max_source_positions"))
    if mel and positions:
        # Whisper: two frames a position
        return (mel, 2 * positions)
    if mel and getattr(config, "max_length", None):
        # a transformer of spectrograms in patches
        return (config.max_length, mel)
    if hasattr(base_model, "_get_feat_extract_output_lengths"):
        return (samples,)
    raise BackboneError(
        f"{config.model_type!r} reads audio in a form that is not supported",
        hint="Use a model of waveforms (Wav2Vec2, HuBERT) or of spectrograms (Whisper, AST)",
    )


def media_inputs(model: Any, media: Sequence[Tensor]) -> dict[str, Any]:
    """Return the input of a class for a task.

    Args:
        model: transformers' class.
        media: Pixels of images of one shape, or inputs of recordings, whose first dimension may
            differ; these are filled up with zeros and masked.
    """
    if model.main_input_name == "pixel_values":
        # a ViT interpolates its position embeddings for other image sizes on request; other
        # architectures always do, and at the training size nothing changes
        return {"pixel_values": torch.stack(list(media)), "interpolate_pos_encoding": True}
    lengths = [len(each) for each in media]
    longest = max(lengths)
    if min(lengths) == longest:
        return {model.main_input_name: torch.stack(list(media))}
    filled = [F.pad(each, (0, longest - len(each))) for each in media]
    mask = torch.zeros(len(media), longest, dtype=torch.long, device=media[0].device)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {model.main_input_name: torch.stack(filled), "attention_mask": mask}


def base_media_inputs(base_model: Any, media: Sequence[Tensor]) -> dict[str, Any]:
    """Return the input of a base model; see ``media_inputs``."""
    accepted = inspect.signature(base_model.forward).parameters
    inputs = media_inputs(base_model, media)
    # a class for a task may name it where its base model does not
    inputs.pop("interpolate_pos_encoding", None)
    return {name: value for name, value in inputs.items() if name in accepted}


def num_positions(base_model: Any, media: Sequence[Tensor]) -> list[int | None]:
    """Return the number of hidden states of each input of a batch; ``None`` for all there are."""
    lengths = [len(each) for each in media]
    count = getattr(base_model, "_get_feat_extract_output_lengths", None)
    if count is None or min(lengths) == max(lengths):
        return [None] * len(media)
    return [int(count(length)) for length in lengths]


def with_blanks(logits: Sequence[Tensor]) -> list[Tensor]:
    """Return logits ``[frames, vocabulary]`` filled up to the same number of frames.

    The added frames are certainly blank (label 0), which changes neither a transcript nor its
    likelihood.
    """
    longest = max(len(each) for each in logits)
    blank = torch.full_like(logits[0][:1], -1e4)
    blank[:, 0] = 0
    return [torch.cat([each, blank.expand(longest - len(each), -1)]) for each in logits]


def groups_of_shapes(media: Sequence[Tensor], *, together: bool) -> list[list[int]]:
    """Return indices of inputs that are computed at once: of one shape, or all where padded.

    Args:
        together: Whether padding changes nothing; images of different shapes are never padded.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, each in enumerate(media):
        key = (0,) if together and each.dim() == 1 else tuple(each.shape)
        groups.setdefault(key, []).append(index)
    return list(groups.values())
