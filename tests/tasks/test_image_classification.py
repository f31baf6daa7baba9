"""Image classification: inputs, resizing, predictions."""

import io

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BitImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil
from vision_backbones import shape_image

from adapterhub.data.images import ImageFile
from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import TASKS, build_task

SQUARE = ViTImageProcessorPil(size={"height": 32, "width": 32})
LABELS = ["blue", "green", "red"]


def task_of(processor=SQUARE, **options):
    return build_task("image-classification", processor, "vision", LABELS, TaskOptions(**options))


def example_of(colour="red", number=1, **more):
    return {"image": ImageFile("x.png", shape_image(colour, number)), "label": colour, **more}


def test_a_batch_holds_images_as_the_processor_makes_them():
    task = task_of()
    examples = [example_of(colour, number) for number, colour in enumerate(LABELS, start=1)]
    encoded = [task.encode(example, n, train=True) for n, example in enumerate(examples, start=1)]
    batch = pack(encoded)
    assert [each.shape for each in batch.media] == [(3, 32, 32)] * 3
    assert batch.targets.tolist() == [0, 1, 2]
    assert batch.tokens == 3 * 4
    own = SQUARE(images=examples[1]["image"].decoded(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch.media[1], own)


@pytest.mark.parametrize(
    "processor",
    [
        SQUARE,
        BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    ],
    ids=["square", "cut", "convnext"],
)
@pytest.mark.parametrize("side", [None, 48])
def test_images_of_any_shape_are_resized_to_the_requested_side(processor, side):
    task = task_of(processor, image_size=side)
    for size in ((40, 32), (20, 60), (200, 100)):
        image = ImageFile("x", shape_image("red", 1, size))
        encoded = task.encode({"image": image}, 1, train=False)
        wanted = side or 32
        assert encoded.media().shape == (3, wanted, wanted)


def test_a_processor_that_keeps_shapes_is_rejected():
    keeps = BitImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(RecipeError, match="keeps the shapes of images"):
        task_of(keeps)


def test_grey_and_transparent_images_are_read_in_colour():
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        content = io.BytesIO()
        form = "JPEG" if mode == "CMYK" else "PNG"
        Image.new(mode, (40, 32)).save(content, form)
        encoded = task_of().encode({"image": ImageFile("x", content.getvalue())}, 1, train=False)
        assert encoded.media().shape == (3, 32, 32)


def test_the_loss_is_cross_entropy_and_the_scores_are_of_a_class():
    task = task_of()
    examples = [example_of(colour) for colour in LABELS]
    batch = pack(
        [task.encode(example, n, train=True) for n, example in enumerate(examples, start=1)]
    )
    features = torch.randn(3, 5)
    weight = torch.randn(3, 5)
    loss = task.loss(lambda h: h @ weight.T, features, batch)
    torch.testing.assert_close(
        loss, F.cross_entropy(features @ weight.T, torch.arange(3), reduction="sum")
    )
    decoded = task.decode(lambda h: h @ weight.T, features, batch)
    expected = F.softmax(features @ weight.T, dim=-1)
    torch.testing.assert_close(torch.stack(decoded), expected)
    said = task.prediction(examples[0], torch.tensor([0.1, 0.7, 0.2]))
    assert said["label"] == "green"
    assert list(said["scores"]) == LABELS
    one_wrong = [torch.eye(3)[0], torch.eye(3)[1], torch.eye(3)[0]]
    evaluation = task.evaluate(examples, one_wrong)
    assert evaluation.metrics["accuracy"] == pytest.approx(2 / 3)
    # blue: 1 of 2 said, 1 of 1 found; green right; red never said
    assert evaluation.metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ({"label": "red"}, "example 7, field 'image': the field is missing"),
        ({"image": "x.png", "label": "red"}, "field 'image': the value must be an image, not str"),
        (
            {"image": ImageFile("x.png", b"none"), "label": "red"},
            "example 7, field 'image': the image 'x.png' can't be read as an image",
        ),
        (example_of(label="mauve"), "example 7, field 'label': the label 'mauve' is not among"),
    ],
)
def test_an_example_that_can_not_be_used_is_named(example, problem):
    with pytest.raises(DataError) as caught:
        task_of().encode(example, 7, train=True)
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.media_field])
def test_tasks_of_texts_are_rejected_on_a_backbone_of_images(name):
    with pytest.raises(RecipeError, match=f"{name} needs a backbone that reads texts"):
        build_task(name, SQUARE, "vision", LABELS, TaskOptions())


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_images_are_rejected_on_a_backbone_of_texts(kind, byte_bpe):
    with pytest.raises(RecipeError, match="needs a backbone that reads images"):
        build_task("image-classification", byte_bpe, kind, LABELS, TaskOptions())


def test_a_task_of_texts_does_not_read_the_size_of_images(byte_bpe):
    with pytest.raises(RecipeError, match=r"task\.image_size: .* does not use this setting"):
        build_task("text-classification", byte_bpe, "decoder", LABELS, TaskOptions(image_size=32))
