"""Image files of examples, read into memory undecoded and bounded in size."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image, ImageOps, UnidentifiedImageError

from adapterhub.data.files import check_size
from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from adapterhub.data.dataset import Dataset

#: Formats that Pillow may decode; others are not needed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
#: Largest file of one image, in bytes.
MAX_IMAGE_BYTES = 32 * 1024**2
#: Largest decoded image in pixels; a small file may claim any size.
MAX_PIXELS = 2**26
#: Returns the bytes of a named image, at most one more than allowed.
_Store: TypeAlias = "Callable[[str], bytes]"
_READ_FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file, not decoded; ``name`` is used in messages and predictions."""

    name: str
    content: bytes = field(repr=False)

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return sha256(self.content).hexdigest()

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


def read_image(path: Path) -> ImageFile:
    """Return the image in a file named by the user.

    Raises:
        DataError: when there is no such file, or it is too large.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"can't be read: {reason}", place=str(path)) from error
    _check_bytes(len(content), str(path))
    return ImageFile(str(path), content)


def load_images(dataset: Dataset, column: str, beside: Path | None) -> Dataset:
    """Return the examples with images in place of their names.

    Names are files in the folder of the data file or in a zip file of the same name
    (``train.zip`` beside ``train.jsonl``). Examples that contain the bytes of their image, as
    those of the Hub and of Parquet files, need no file.

    Args:
        dataset: Examples by the task's field names.
        column: Field of the image.
        beside: Data file; ``None`` where the examples are from no file.

    Raises:
        DataError: naming the example whose image is missing, too large, or outside the folder.
    """
    found: list[dict[str, Any]] = []
    total = 0
    with ExitStack() as open_files:
        store: _Store | None = None
        for index, example in enumerate(dataset.examples):
            place = f"{dataset.place(index)}, field {column!r}"
            value = example[column]
            if isinstance(value, str):
                store = store or _store_beside(beside, place, open_files)
                image = ImageFile(value, store(_plain_name(value, place)))
            else:
                image = _embedded(value, place)
            _check_bytes(len(image.content), place)
            total += len(image.content)
            check_size(total, f"all images of {dataset.name}")
            found.append({**example, column: image})
    return replace(dataset, examples=tuple(found))


def _store_beside(beside: Path | None, place: str, open_files: ExitStack) -> _Store:
    if beside is None:
        raise DataError("names an image, but the examples come from no folder", place=place)
    archive = beside.with_name(f"{beside.name.partition('.')[0]}.zip")
    if not archive.is_file():
        return partial(_read_from_folder, beside.parent.resolve())
    try:
        opened = open_files.enter_context(zipfile.ZipFile(archive))
    except _READ_FAULTS as error:
        raise DataError(f"can't be read: {error}", place=archive.name) from error
    return partial(_read_from_archive, opened, archive.name)


def _read_from_folder(folder: Path, name: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise DataError("is a link that leads out of the folder", place=name)
    if not path.is_file():
        there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, there)
        raise DataError("there is no such image", place=name, hint=hint)
    with path.open("rb") as stream:
        return stream.read(MAX_IMAGE_BYTES + 1)


def _read_from_archive(archive: zipfile.ZipFile, origin: str, name: str) -> bytes:
    place = f"{origin}: {name}"
    try:
        # the sizes in the directory of a zip file may be wrong
        with archive.open(name) as stream:
            return stream.read(MAX_IMAGE_BYTES + 1)
    except KeyError:
        hint = did_you_mean(name, archive.namelist())
        raise DataError("there is no such image", place=place, hint=hint) from None
    except _READ_FAULTS as error:
        raise DataError(f"can't be read: {error}", place=place) from error


def _plain_name(name: str, place: str) -> str:
    """Reject names that lead out of the folder of the images."""
    path = PurePosixPath(name)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts
    if not plain or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise DataError(
            f"{name!r:.100} is not a path below the folder of the examples",
            place=place,
            hint="Name images as sub/folder/name.jpg, relative to the file of examples",
        )
    return name


def _embedded(value: Any, place: str) -> ImageFile:
    if isinstance(value, ImageFile):
        return value
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes):
        raise DataError(
            f"must name an image, or hold its bytes, not {type(value).__name__}", place=place
        )
    return ImageFile(_name_of(value, content), content)


def _name_of(value: Mapping[str, Any], content: bytes) -> str:
    name = value.get("path")
    return name if isinstance(name, str) and name else sha256(content).hexdigest()[:12]


def _check_bytes(size: int, place: str) -> None:
    if size > MAX_IMAGE_BYTES:
        raise DataError(
            f"is larger than the limit of {MAX_IMAGE_BYTES / 1024**2:.3g} MiB per image",
            place=place,
        )


def _check_pixels(count: int, most: int, place: str) -> None:
    if count > most:
        raise DataError(
            f"has {count} pixels, the limit is {most}",
            place=place,
            hint="Make it smaller; a backbone reads a few hundred pixels a side",
        )
