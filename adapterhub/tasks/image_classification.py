"""Image classification: one label for an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.images import ImageFile
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.tasks.base import join_predictions
from adapterhub.tasks.class_loss import ClassLoss
from adapterhub.tasks.class_scores import class_prediction, score_classes
from adapterhub.tasks.fields import is_given, place_of, required
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.limits import check_temperature
from adapterhub.tasks.pixels import PixelReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import BaseImageProcessor

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Evaluation, Example, Head, HeadKind, TaskOptions

#: Pixels that count as one position where batches are cut by their size: what a ViT reads as one.
PIXELS_A_POSITION = 16 * 16


class ImageClassification:
    """Examples have ``image``, a ``ImageFile``, and ``label``: a name or a whole number.

    Images are brought to size and normalized by the backbone's own image processor, without
    augmentation. The head reads what the architecture gives its own classifier: the class
    token, the mean of the patches, or both.
    """

    name: str = "image-classification"
    pipeline_tag: str = "image-classification"
    # peft has no type for images, and needs none
    peft_task_type: str = ""
    head: HeadKind = "image"
    reads_windows: bool = False
    default_metric: tuple[str, bool] = ("accuracy", True)

    def __init__(
        self,
        processor: BaseImageProcessor,
        labels: Sequence[str],
        options: TaskOptions,
        *,
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the task.

        Args:
            processor: the backbone's.
            labels: names in the order of the head's outputs.
            options: settings from the recipe.
            label_counts: how often each label is in the training examples; needed for
                balanced class weights.

        Raises:
            RecipeError: when labels, options and processor do not fit together.
        """
        check_temperature(options.temperature)
        self.options = options
        self.reader = PixelReader(processor, options.image_size)
        self.index = LabelIndex(labels)
        self.labels = self.index.names
        self.criterion = ClassLoss(self.labels, options, label_counts)

    def encode(self, example: Example, number: int, *, train: bool) -> EncodedExample:
        """Check that an example's image can be decoded, and return how to; see ``Task.encode``.

        Raises:
            DataError: naming example and field, when the example can't be used.
        """
        image = self._image(example, number)
        return EncodedExample(
            number=number,
            input_ids=(),
            select=(0,),
            targets=self._targets(example, number, train),
            pixels=partial(self.reader.pixels, image),
            positions=max(1, self.reader.area // PIXELS_A_POSITION),
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.criterion.total(head(hidden), batch.targets)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of examples, or the summed weight of their classes."""
        return self.criterion.divisor(batch.targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` an example, float32 on the CPU."""
        logits = head(hidden).float() / self.options.temperature
        return list(logits.softmax(dim=-1).cpu().unbind())

    def evaluate(self, examples: Sequence[Example], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label; see ``score_classes``.

        Raises:
            DataError: when there are no examples, or an example has no known label.
        """
        return score_classes(self.index, examples, decoded)

    def windows(self, example: Example) -> list[Example]:
        """Return the example itself: an image is read as a whole."""
        return [example]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only answer."""
        return join_predictions(answers)

    def prediction(self, example: Example, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: probability}}``."""
        return class_prediction(self.labels, decoded)

    def _image(self, example: Example, number: int) -> ImageFile:
        image = required(example, "image", number)
        place = place_of(number, "image")
        if not isinstance(image, ImageFile):
            raise DataError(
                f"the value must be an image, not {type(image).__name__}",
                place=place,
                hint="Read it with adapterhub.data.images.read_image",
            )
        try:
            image.decoded()
        except DataError as error:
            problem = f"the image {error.place!r} {error.problem}"
            raise DataError(problem, place=place, hint=error.hint) from None
        return image

    def _targets(self, example: Example, number: int, train: bool) -> tuple[int, ...]:
        if not train and not is_given(example, "label"):
            return ()
        return (self.index.index(required(example, "label", number), number, "label"),)
