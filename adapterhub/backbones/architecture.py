"""Configuration, kind and preprocessor of a backbone folder, read without its weights."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.folder import has_tokenizer, read_config
from adapterhub.errors import BackboneError
from adapterhub.tasks.preprocessors import SpeechProcessor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import (
        BaseImageProcessor,
        FeatureExtractionMixin,
        GenerationConfig,
        PretrainedConfig,
        PreTrainedTokenizerBase,
    )

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import Preprocessor


def read_architecture(path: Path) -> PretrainedConfig:
    """Return transformers' configuration of a backbone folder."""
    from transformers import AutoConfig

    _check_known(path)
    config: PretrainedConfig = _read(AutoConfig, path, "the architecture is not supported")
    if getattr(config, "is_encoder_decoder", False) and not reads_audio(config):
        check_encoder_decoder(config, str(path))
    if getattr(config, "attention_type", None) == "block_sparse":
        raise BackboneError(
            f"{config.model_type!r} with block-sparse attention is not supported: one short text "
            "turns transformers' model to full attention for all later texts",
            place=str(path),
            hint='Set "attention_type": "original_full" in config.json',
        )
    return config


def _check_known(path: Path) -> None:
    """Check that transformers itself has the architecture."""
    from transformers import CONFIG_MAPPING, __version__

    document = read_config(path)
    model_type = document["model_type"]
    if model_type in CONFIG_MAPPING:
        return
    if document.get("auto_map"):
        raise BackboneError(
            f"the architecture is not supported: {model_type!r} needs code from its repository, "
            "which is never run",
            place=str(path),
            hint="Use a backbone whose architecture is part of transformers",
        )
    raise BackboneError(
        f"the architecture is not supported: transformers {__version__} has no {model_type!r}",
        place=str(path),
        hint="Use a backbone of another architecture, or a version of transformers that has it",
    )


def is_decoder(config: Any) -> bool:
    """Return whether an architecture is a decoder; encoders that could run as one are not."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    if type(config) not in AutoModelForMaskedLM._model_mapping:
        return True
    # XLM has one class for both, and an option of its own
    return bool(getattr(config, "is_decoder", False) or getattr(config, "causal", False))


def kind_of(config: Any) -> BackboneKind:
    """Return the kind of an architecture.

    A model of images and text that transformers classifies images with, such as CLIP, is
    ``vision``: its image tower is the backbone. A model of speech that it classifies recordings
    with, such as Whisper, is ``audio``, whether or not it has a decoder.

    Raises:
        BackboneError: If transformers has no class for it that reads text or images alone.
    """
    if reads_audio(config):
        return "audio"
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if is_decoder(config):
        return "decoder"
    if _reads(config, _image_mapping(), "pixel_values"):
        return "vision"
    if any(_reads(config, mapping, "input_ids") for mapping in _text_mappings()):
        return "encoder"
    raise BackboneError(
        f"the architecture is not supported: {config.model_type!r} reads neither text, images nor "
        "audio alone",
        hint="Use a decoder (Llama, Gemma), an encoder (BERT), an encoder-decoder (T5), a vision "
        "model (ViT) or an audio model (Wav2Vec2, Whisper)",
    )


def reads_audio(config: Any) -> bool:
    """Return whether transformers classifies recordings with an architecture."""
    from transformers import AutoModelForAudioClassification

    mapping = AutoModelForAudioClassification._model_mapping
    return any(_reads(config, mapping, name) for name in ("input_values", "input_features"))


def transcribes(config: Any) -> bool:
    """Return whether an audio architecture is an encoder-decoder that writes transcripts.

    A checkpoint that names a class without the decoder, such as one for classification, has none.
    """
    from transformers import AutoModelForSpeechSeq2Seq

    mapping = AutoModelForSpeechSeq2Seq._model_mapping
    if not reads_audio(config) or type(config) not in mapping:
        return False
    named = getattr(config, "architectures", None)
    return not named or mapping[type(config)].__name__ in named


def has_transcripts(path: Path) -> bool:
    """Return whether the backbone in a folder writes transcripts by a tokenizer of its own."""
    return transcribes(read_architecture(path)) and has_tokenizer(path)


def check_encoder_decoder(config: Any, place: str) -> None:
    """Require an encoder-decoder that maps token ids to token ids, by one configuration.

    Raises:
        BackboneError: If it reads audio or images, or is made of two models.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

    name, hint = config.model_type, "Use one that reads and writes text, such as T5, BART or Marian"
    if type(config) in AutoModelForSpeechSeq2Seq._model_mapping:
        problem = f"{name!r} reads audio, and encoder-decoders of audio are not supported yet"
    elif not _reads(config, AutoModelForSeq2SeqLM._model_mapping, "input_ids"):
        problem = f"{name!r} is an encoder-decoder that does not map text to text"
    elif config.sub_configs:
        problem = f"{name!r} is an encoder-decoder of two models with a configuration each"
    elif name == "fsmt":
        # and its attention computes [length, batch] where all others have [batch, length]
        problem = f"{name!r} shifts the source in place of the target in transformers' own training"
    else:
        return
    raise BackboneError(problem, place=place, hint=hint)


def _image_mapping() -> Any:
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification._model_mapping


def _text_mappings() -> list[Any]:
    from transformers import (
        AutoModel,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    classes = (AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification)
    return [each._model_mapping for each in classes]


def _reads(config: Any, mapping: Any, main_input: str) -> bool:
    if type(config) not in mapping:
        return False
    found = mapping[type(config)]
    first = found[0] if isinstance(found, tuple | list) else found
    return bool(first.main_input_name == main_input)


def backbone_kind(path: Path) -> BackboneKind:
    """Return the kind of the backbone in a folder."""
    return kind_of(read_architecture(path))


def read_preprocessor(path: Path) -> Preprocessor:
    """Return the tokenizer of a backbone folder, or what prepares its images or recordings.

    A model that writes transcripts has both, unless its folder lacks a tokenizer.
    """
    config = read_architecture(path)
    if transcribes(config) and has_tokenizer(path):
        return SpeechProcessor(
            read_feature_extractor(path),
            read_tokenizer(path),
            read_generation_config(path, config),
            int(config.max_target_positions),
        )
    readers: dict[str, Any] = {"vision": read_image_processor, "audio": read_feature_extractor}
    found: Preprocessor = readers.get(kind_of(config), read_tokenizer)(path)
    return found


def read_generation_config(path: Path, config: Any) -> GenerationConfig:
    """Return the generation settings of a backbone folder, or those that its model has without."""
    from transformers import GenerationConfig

    if not (path / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(config)
    return _read(GenerationConfig, path, "the generation settings can't be read", code=False)


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


def read_feature_extractor(path: Path) -> FeatureExtractionMixin:
    """Return the feature extractor of a backbone folder."""
    from transformers import AutoFeatureExtractor

    return _read(AutoFeatureExtractor, path, "the feature extractor can't be read")


def _read(auto_class: Any, path: Path, problem: str, *, code: bool = True, **options: Any) -> Any:
    if code:
        options["trust_remote_code"] = False
    try:
        return auto_class.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise BackboneError(f"{problem}: {reason_of(error)}", place=str(path)) from error


def reason_of(error: Exception) -> str:
    """Return the first sentence of an exception of transformers, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # a full stop ends a sentence only before a space: file names and versions have some too
    return re.split(r"[.!] ", lines[0], maxsplit=1)[0].rstrip(" .:")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Disable transformers' progress bars and messages inside the block.

    It reports weights that the checkpoint lacks, which the caller checks itself.
    """
    from transformers.utils import logging

    enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if enabled:
            logging.enable_progress_bar()
