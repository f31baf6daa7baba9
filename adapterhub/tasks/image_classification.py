"""Image classification: one label for an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.images import ImageFile
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.tasks.classification import SingleLabelTask
from adapterhub.tasks.fields import place_of, required
from adapterhub.tasks.preprocessors import ImageLoader

if TYPE_CHECKING:
    from adapterhub.tasks.base import AuditSpec, HeadKind, Pool
    from adapterhub.tasks.fields import Example

#: Pixels that count as one position in batches bounded by tokens: a patch of a ViT.
PIXELS_PER_POSITION = 16 * 16


class ImageClassification(SingleLabelTask):
    """Examples have ``image``, an ``ImageFile``, and ``label``: a name or a whole number.

    Images are resized and normalized by the backbone's own image processor, without
    augmentation. The head reads the same features as the architecture's own classifier: the
    class token, the mean of the patches, or both.
    """

    name: str = "image-classification"
    pipeline_tag: str = "image-classification"
    # peft has no type for images, and needs none
    peft_task_type: str = ""
    head: HeadKind = "image"
    default_metric: tuple[str, bool] = ("accuracy", True)
    audit: AuditSpec | None = None
    attribution: None = None

    def _set_up(self, preprocessor: Any, pool: Pool) -> None:
        self._loader = ImageLoader(preprocessor, self.options.image_size)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Check that the image of an example can be decoded; see ``Task.encode``."""
        return EncodedExample(
            number=number,
            input_ids=(),
            select=(0,),
            targets=self.classes.targets(example, number, train=train),
            media=partial(self._loader.pixels, _image(example, number)),
            positions=max(1, self._loader.area // PIXELS_PER_POSITION),
        )


def _image(example: Example, number: int) -> ImageFile:
    image = required(example, "image", number)
    place = place_of(number, "image")
    if not isinstance(image, ImageFile):
        raise DataError(
            f"the value must be an image, not {type(image).__name__}",
            place=place,
            hint="Read it with adapterhub.data.media.read_media",
        )
    try:
        image.decoded()
    except DataError as error:
        problem = f"the image {error.place!r} {error.problem}"
        raise DataError(problem, place=place, hint=error.hint) from None
    return image
