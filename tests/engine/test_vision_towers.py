"""Images of a mixed batch equal peft alone on towers, windows of two kinds, and plain encoders."""

from types import SimpleNamespace

import peft
import pytest
import torch
from peft import get_peft_model_state_dict
from tiny_models import SIDE, tiny_model_folder
from transformers import AutoModelForImageClassification

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.packing import EncodedExample
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import LoraSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
TOLERANCE = 1e-4


class ImageLabeller:
    """An adapter of random weights on a vision backbone, and peft's model of it."""

    def __init__(self, folder, seed):
        torch.manual_seed(seed)
        labels = [f"l{at}" for at in range(2 + seed % 2)]
        stock = AutoModelForImageClassification.from_pretrained(
            folder, num_labels=len(labels), dtype=torch.float32
        )
        config = peft.LoraConfig(
            r=3,
            lora_alpha=6,
            target_modules="all-linear",
            exclude_modules=["classifier"],
            modules_to_save=["classifier"],
            init_lora_weights=False,
        )
        self.model = peft.get_peft_model(stock, config).eval()
        for name, value in self.model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                value.data.normal_(std=0.2)
        state = get_peft_model_state_dict(self.model)
        spec = LoraSpec(rank=3, alpha=6.0, target_modules=("all-linear",))
        self.weights = AdapterWeights(spec, {key: value.clone() for key, value in state.items()})
        self.task = SimpleNamespace(
            head="image", labels=tuple(labels), name="image", generation=None
        )

    def logits(self, pixels):
        with torch.no_grad():
            return self.model(pixel_values=pixels.unsqueeze(0)).logits


@pytest.mark.parametrize("architecture", ["clip", "swinv2", "vit", "dinov2"])
def test_images_of_mixed_adapters_equal_peft_alone(tmp_path, architecture):
    folder = tiny_model_folder(tmp_path, architecture)
    labellers = [ImageLabeller(folder, seed) for seed in range(3)]
    engine = Engine(load_backbone(str(folder), PLAIN), EngineConfig(rank_slots=16))
    for at, each in enumerate(labellers):
        engine.load_weights(each.weights, key=str(at), name=str(at), task=each.task)
    requests = []
    for at in (0, 1, 2, 1, 0):
        pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(at))
        example = EncodedExample(1, (), (0,), media=lambda own=pixels: own, positions=4)
        requests.append((engine.add_labeling(example, str(at)), labellers[at], pixels))
    while engine.busy:
        engine.step()
    for request, labeller, pixels in requests:
        (found,) = request.results()
        assert (found - labeller.logits(pixels)).abs().max() < TOLERANCE
    engine.close()
