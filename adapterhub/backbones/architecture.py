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
    """Return transformers' configuration of a backbone folder."""
    from transformers import AutoConfig

    config: PretrainedConfig = _read(AutoConfig, path, "the architecture is not supported")
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
    """Return the tokenizer of a backbone folder, or the image processor of a vision backbone."""
    return read_image_processor(path) if backbone_kind(path) == "vision" else read_tokenizer(path)


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a backbone folder."""
    from transformers import AutoTokenizer

    return _read(AutoTokenizer, path, "the tokenizer can't be read")


def read_image_processor(path: Path) -> BaseImageProcessor:
    """Return the image processor of a backbone folder, in the variant based on Pillow.

    Results then do not depend on whether torchvision is installed.
    """
    from transformers import AutoImageProcessor

    return _read(AutoImageProcessor, path, "the image processor can't be read", backend="pil")


def _read(auto_class: Any, path: Path, problem: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BackboneError(f"{problem}: {reason}", place=str(path)) from error


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
