"""Checks of preprocessors against a task's settings, and loading of images and recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import (
        BaseImageProcessor,
        FeatureExtractionMixin,
        GenerationConfig,
        PreTrainedTokenizerBase,
    )

    from adapterhub.data.audio import AudioFile
    from adapterhub.data.images import ImageFile

#: Width and height of the images that a processor is tried on; it must give one shape.
_SIZES = ((24, 16), (16, 24))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Require a tokenizer with character offsets and a valid ``max_length``."""
    if not tokenizer.is_fast:
        raise RecipeError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets",
            place="backbone.name",
            hint="Use a backbone that comes with a tokenizer.json",
        )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special:
        raise RecipeError(
            f"{max_length} tokens leave no room beside {special} special tokens",
            place="task.max_length",
        )
    if max_length > tokenizer.model_max_length:
        raise RecipeError(
            f"{max_length} tokens are more than the backbone reads",
            place="task.max_length",
            hint=f"Use {tokenizer.model_max_length} or less",
        )


class ImageLoader:
    """Decodes images and resizes all of them to one shape with transformers' image processor."""

    def __init__(self, processor: BaseImageProcessor, side: int | None) -> None:
        """Try the processor on images of different shapes.

        Images get ``side`` pixels a side; as many as in the processor's settings where ``None``.

        Raises:
            RecipeError: when it fails, or keeps different shapes.
        """
        self._processor = processor
        self._changes = {} if side is None else _resizing(processor, side)
        try:
            shapes = [tuple(self._run(Image.new("RGB", size)).shape) for size in _SIZES]
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(
                f"{type(processor).__name__} can't be used: {error}", place="task.image_size"
            ) from error
        if len(set(shapes)) > 1:
            raise RecipeError(
                f"{type(processor).__name__} keeps the shapes of images: {shapes}",
                place="backbone.name",
                hint="Give its preprocessor_config.json a size with height and width",
            )
        #: height times width
        self.area: int = shapes[0][-1] * shapes[0][-2]

    def pixels(self, image: ImageFile) -> Tensor:
        """Return ``[channels, height, width]`` float32."""
        return self._run(image.decoded())

    def _run(self, image: Image.Image) -> Tensor:
        processor: Any = self._processor
        return processor(images=image, return_tensors="pt", **self._changes)["pixel_values"][0]


@dataclass(frozen=True, slots=True, eq=False)
class SpeechProcessor:
    """What prepares recordings for an encoder-decoder, and reads what it writes.

    Args:
        feature_extractor: Feature extractor of the encoder.
        tokenizer: Tokenizer of the decoder.
        generation_config: Settings of the checkpoint, with the tokens that it never writes.
        num_positions: Most tokens that the decoder reads.
    """

    feature_extractor: FeatureExtractionMixin
    tokenizer: PreTrainedTokenizerBase
    generation_config: GenerationConfig
    num_positions: int


#: Durations in seconds that a feature extractor is tried on; some extractors fill up to one.
_TRIED_SECONDS = (0.4, 0.6)
#: Positions of a second, as models of waveforms and Whisper have.
_POSITIONS_PER_SECOND = 50


class AudioLoader:
    """Decodes recordings and turns them into a model's input by transformers' extractor.

    Args:
        extractor: Feature extractor of the backbone.
        max_seconds: Longest part of a recording that is read.

    Raises:
        RecipeError: When the extractor fails, or reads less.
    """

    def __init__(self, extractor: Any, max_seconds: float) -> None:
        if isinstance(extractor, SpeechProcessor):
            extractor = extractor.feature_extractor
        self._extractor, self.max_seconds = extractor, max_seconds
        #: samples per second
        self.rate: int = extractor.sampling_rate
        window = getattr(extractor, "chunk_length", None)
        if window is not None and max_seconds > window:
            raise RecipeError(
                f"{max_seconds:g} s are more than the backbone reads",
                place="task.max_seconds",
                hint=f"Use {window:g} or less",
            )
        counts = [round(seconds * self.rate) for seconds in _TRIED_SECONDS]
        try:
            shapes = [tuple(self._run(np.zeros(count, np.float32)).shape) for count in counts]
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise RecipeError(
                f"{type(extractor).__name__} can't be used: {error}", place="backbone.name"
            ) from error
        # a spectrogram that is filled up has two lines or columns for each position
        self._filled = max(shapes[0]) // 2 if len(set(shapes)) == 1 else None

    def features(self, recording: AudioFile) -> Tensor:
        """Return the input of the model: samples or a spectrogram, float32."""
        return self._run(recording.waveform(self.rate, self.max_seconds))

    def features_of(self, samples: np.ndarray[Any, Any]) -> Tensor:
        """Return the input of the model for samples at ``rate``."""
        return self._run(samples)

    def positions(self, recording: AudioFile) -> int:
        """Return about how many positions the model computes for a recording."""
        return self.positions_of(min(recording.seconds(), self.max_seconds))

    def positions_of(self, seconds: float) -> int:
        """Return about how many positions the model computes for some seconds."""
        return self._filled or max(1, round(seconds * _POSITIONS_PER_SECOND))

    def _run(self, samples: np.ndarray[Any, Any]) -> Tensor:
        found = self._extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        tensor: Tensor = found[self._extractor.model_input_names[0]][0]
        return tensor


def _resizing(processor: Any, side: int) -> dict[str, Any]:
    """Return the settings with which a processor resizes images to ``side`` by ``side``.

    Processors that scale the shorter edge then crop the center with the same side, so that all
    of that edge is seen.
    """
    if not getattr(processor, "do_resize", False):
        return {"do_resize": True, "size": {"height": side, "width": side}}
    changes: dict[str, Any] = {"size": {key: side for key in dict(processor.size)}}
    if getattr(processor, "crop_size", None):
        changes["crop_size"] = {"height": side, "width": side}
    return changes
