"""From an image to the numbers that a backbone reads, by transformers' own image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor

    from adapterhub.data.images import ImageFile

#: Shapes of images, width and height, that a processor must bring to one.
_SHAPES = ((24, 16), (16, 24))


class PixelReader:
    """Decodes images and brings all of them to one shape."""

    def __init__(self, processor: BaseImageProcessor, side: int | None) -> None:
        """Try the processor on images of different shapes.

        Args:
            processor: transformers' own, of the backbone.
            side: of the images that it makes, in pixels; its own where ``None``.

        Raises:
            RecipeError: when it fails, or does not bring images to one shape.
        """
        self._processor = processor
        self._changes = {} if side is None else _sized(processor, side)
        try:
            shapes = [tuple(self._run(Image.new("RGB", size)).shape) for size in _SHAPES]
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
        """Return ``[channels, height, width]`` float32.

        Raises:
            DataError: when the image can't be decoded.
        """
        return self._run(image.decoded())

    def _run(self, image: Image.Image) -> Tensor:
        processor: Any = self._processor
        return processor(images=image, return_tensors="pt", **self._changes)["pixel_values"][0]


def _sized(processor: Any, side: int) -> dict[str, Any]:
    """Return what makes a processor bring images to ``side`` by ``side``.

    Processors that scale the shorter edge then cut out the middle, at the same side: the
    whole of that edge is seen.
    """
    if not getattr(processor, "do_resize", False):
        return {"do_resize": True, "size": {"height": side, "width": side}}
    changes: dict[str, Any] = {"size": {key: side for key in dict(processor.size)}}
    if getattr(processor, "crop_size", None):
        changes["crop_size"] = {"height": side, "width": side}
    return changes
