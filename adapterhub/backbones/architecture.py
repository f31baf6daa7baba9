"""Configuration, kind and preprocessor of a backbone folder, read without its weights."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import Preprocessor


def read_architecture(path: Path) -> PretrainedConfig:
    """Return transformers' configuration of a backbone folder.

    Raises:
        BackboneError: If transformers or adapterhub does not support the architecture.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"the architecture is not supported: {_first_line(error)}", place=str(path)
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{config.model_type!r} is an encoder-decoder model",
            place=str(path),
            hint="Use a decoder (Llama, Gemma) or an encoder (BERT)",
        )
    return config


def is_decoder(config: Any) -> bool:
    """Return whether an architecture is a decoder; encoders that could run as one are not."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return not masked or bool(getattr(config, "is_decoder", False))


def kind_of(config: Any) -> BackboneKind:
    """Return the kind of an architecture; multimodal ones such as CLIP are not ``vision``."""
    from transformers import AutoModelForImageClassification

    if is_decoder(config):
        return "decoder"
    vision = type(config) in AutoModelForImageClassification._model_mapping
    return "vision" if vision and not hasattr(config, "text_config") else "encoder"


def backbone_kind(path: Path) -> BackboneKind:
    """Return the kind of the backbone in a folder."""
    return kind_of(read_architecture(path))


def read_preprocessor(path: Path) -> Preprocessor:
    """Return the tokenizer of a backbone folder, or the image processor of a vision backbone.

    Raises:
        BackboneError: If transformers can't read it.
    """
    return read_image_processor(path) if backbone_kind(path) == "vision" else read_tokenizer(path)


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a backbone folder.

    Raises:
        BackboneError: If transformers can't read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"the tokenizer can't be read: {_first_line(error)}", place=str(path)
        ) from error


def read_image_processor(path: Path) -> BaseImageProcessor:
    """Return the image processor of a backbone folder, in the variant based on Pillow.

    Results then do not depend on whether torchvision is installed.

    Raises:
        BackboneError: If transformers can't read it.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(
            f"the image processor can't be read: {_first_line(error)}", place=str(path)
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable transformers' progress bars inside the block."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
