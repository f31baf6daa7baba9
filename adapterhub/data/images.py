"""Image files of examples, decoded by Pillow within bounds."""

from __future__ import annotations

import io
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image, ImageOps, UnidentifiedImageError

from adapterhub.data.media import MediaFile
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Formats that Pillow may decode; others are not needed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
#: Largest decoded image in pixels; a small file may claim any size.
MAX_PIXELS = 2**26


@dataclass(frozen=True, slots=True)
class ImageFile(MediaFile):
    """An image file, not decoded."""

    noun: ClassVar[str] = "image"

    def decoded(self) -> Image.Image:
        """Return the image in RGB with its EXIF rotation applied; of an animation the first frame.

        Transparent parts become white, and 16 bits a channel are reduced to 8.

        Raises:
            DataError: when it is not an image of a supported format, damaged, or too large.
        """
        with self._opened(MAX_PIXELS) as image:
            return _in_rgb(ImageOps.exif_transpose(image))

    def check_header(self, most_pixels: int) -> None:
        """Check format and size by the header, without decoding.

        Raises:
            DataError: when it is not an image of a supported format, or too large.
        """
        with self._opened(most_pixels):
            pass

    @contextmanager
    def _opened(self, most_pixels: int) -> Iterator[Image.Image]:
        """Open the image and read its header."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self.content), formats=FORMATS) as image:
                    _check_pixels(image.width * image.height, most_pixels, self.name)
                    yield image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(f"is too large to be decoded: {error}", place=self.name) from error
        except (OSError, ValueError, SyntaxError, EOFError, zlib.error, MemoryError) as error:
            raise DataError(
                f"can't be read as an image{_reason(error)}",
                place=self.name,
                hint=f"Supported formats: {', '.join(FORMATS)}",
            ) from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow keeps 16-bit greys as they are and would clip them at 255
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """Return Pillow's message, unless it is only that the format is unknown."""
    text = " ".join(str(error).split())
    return "" if isinstance(error, UnidentifiedImageError) or not text else f": {text}"


def _check_pixels(count: int, most: int, place: str) -> None:
    if count > most:
        raise DataError(
            f"has {count} pixels, the limit is {most}",
            place=place,
            hint="Make it smaller; a backbone reads a few hundred pixels a side",
        )
