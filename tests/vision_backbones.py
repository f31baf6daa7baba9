"""Tiny random vision backbones, and images of coloured shapes."""

import io
import json
import random
import zipfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import (
    BitImageProcessorPil,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

SIDE = 28
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 14,
    "initializer_range": 0.2,
}
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 40, 210)}


def build(family: str):
    """Return a base model and its image processor."""
    torch.manual_seed(0)
    square = {"height": SIDE, "width": SIDE}
    plain = ViTImageProcessorPil(size=square)
    cut = BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    match family:
        case "vit":
            return ViTModel(ViTConfig(**SMALL)), plain
        case "deit":
            return DeiTModel(DeiTConfig(**SMALL)), plain
        case "dinov2":
            sizes = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
            return Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, use_mask_token=False)), cut
        case "swin":
            config = SwinConfig(
                image_size=SIDE,
                patch_size=7,
                embed_dim=16,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=2,
            )
            return SwinModel(config), plain
        case _:
            # with the default its layers would hardly contribute
            config = ConvNextConfig(
                hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, layer_scale_init_value=1.0
            )
            return ConvNextModel(config), ConvNextImageProcessorPil(size={"shortest_edge": SIDE})


FAMILIES = ("vit", "deit", "dinov2", "swin", "convnext")


def save_vision(folder: Path, family: str = "vit") -> Path:
    base_model, processor = build(family)
    base_model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def shape_image(colour: str, number: int, size=(40, 32), form: str = "PNG") -> bytes:
    """Return an image of a shape of that colour on grey."""
    draw_at = random.Random(number)
    image = Image.new("RGB", size, (120, 120, 120))
    left, top = draw_at.randrange(8), draw_at.randrange(6)
    box = (left, top, left + 24, top + 20)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if number % 2 else pen.rectangle)(box, fill=COLOURS[colour])
    content = io.BytesIO()
    image.save(content, form)
    return content.getvalue()


def save_shapes(folder: Path, *, count: int = 48, zipped: bool = True, name: str = "rows") -> Path:
    """Write examples that name images, and the images in a zip file or folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    examples = [
        {"file": f"shapes/{number:03}.png", "label_name": names[number % 3]}
        for number in range(count)
    ]
    images = {
        example["file"]: shape_image(example["label_name"], number)
        for number, example in enumerate(examples)
    }
    if zipped:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member, content in images.items():
                archive.writestr(member, content)
    else:
        for member, content in images.items():
            (folder / member).parent.mkdir(exist_ok=True)
            (folder / member).write_bytes(content)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path
