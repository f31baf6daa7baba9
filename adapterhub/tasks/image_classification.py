"""Image classification: one label for a picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.data.packing import Example
from adapterhub.data.pictures import Picture
from adapterhub.errors import DataError
from adapterhub.tasks.base import join_predictions
from adapterhub.tasks.class_loss import ClassLoss
from adapterhub.tasks.class_scores import class_prediction, score_classes
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.limits import check_temperature
from adapterhub.tasks.pixels import PixelReader
from adapterhub.tasks.rows import is_given, place_of, required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import BaseImageProcessor

    from adapterhub.data.packing import PackedBatch
    from adapterhub.tasks.base import Evaluation, Head, HeadKind, Row, TaskOptions

#: Pixels that count as one position where batches are cut by their size: what a ViT reads as one.
PIXELS_A_POSITION = 16 * 16


class ImageClassification:
    """Rows have ``image``, a ``Picture``, and ``label``: a name or a whole number.

    Pictures are brought to size and normalized by the backbone's own image processor, without
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
            label_counts: how often each label is in the training rows; needed for
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

    def encode(self, row: Row, number: int, *, train: bool) -> Example:
        """Check that a row's picture can be decoded, and return how to; see ``Task.encode``.

        Raises:
            DataError: naming row and field, when the row can't be used.
        """
        picture = self._picture(row, number)
        return Example(
            row=number,
            input_ids=(),
            select=(0,),
            targets=self._targets(row, number, train),
            pixels=partial(self.reader.pixels, picture),
            positions=max(1, self.reader.area // PIXELS_A_POSITION),
        )

    def loss(self, head: Head, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Return the summed cross entropy, a scalar."""
        return self.criterion.total(head(hidden), batch.targets)

    def weight(self, batch: PackedBatch) -> float:
        """Return the number of rows, or the summed weight of their classes."""
        return self.criterion.divisor(batch.targets)

    def decode(self, head: Head, hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
        """Return the probability of each label, ``[classes]`` a row, float32 on the CPU."""
        logits = head(hidden).float() / self.options.temperature
        return list(logits.softmax(dim=-1).cpu().unbind())

    def evaluate(self, rows: Sequence[Row], decoded: Sequence[Any]) -> Evaluation:
        """Return accuracy, macro-F1 and a record per label; see ``score_classes``.

        Raises:
            DataError: when there are no rows, or a row has no known label.
        """
        return score_classes(self.index, rows, decoded)

    def windows(self, row: Row) -> list[Row]:
        """Return the row itself: a picture is read as a whole."""
        return [row]

    def join(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the only answer."""
        return join_predictions(answers)

    def prediction(self, row: Row, decoded: Tensor) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: probability}}``."""
        return class_prediction(self.labels, decoded)

    def _picture(self, row: Row, number: int) -> Picture:
        picture = required(row, "image", number)
        place = place_of(number, "image")
        if not isinstance(picture, Picture):
            raise DataError(
                f"the value must be a picture, not {type(picture).__name__}",
                place=place,
                hint="Read it with adapterhub.data.pictures.read_picture",
            )
        try:
            picture.decoded()
        except DataError as error:
            problem = f"the picture {error.place!r} {error.problem}"
            raise DataError(problem, place=place, hint=error.hint) from None
        return picture

    def _targets(self, row: Row, number: int, train: bool) -> tuple[int, ...]:
        if not train and not is_given(row, "label"):
            return ()
        return (self.index.index(required(row, "label", number), number, "label"),)
