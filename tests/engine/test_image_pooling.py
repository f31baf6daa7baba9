"""Images of a mixed batch have the scores that each has alone with transformers and peft."""

import random
from dataclasses import replace

import peft
import pytest
import torch
from pooling_helpers import randomize
from transformers import AutoModelForImageClassification
from vision_backbones import FAMILIES, save_vision, shape_image

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.data.images import ImageFile
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import DataError, EngineError, RequestError
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

PLAIN = QuantizationSpec("none", "float32")
TOLERANCE = 1e-4
LABELS = ["red", "green", "blue"]
ROOMY = EngineConfig(rank_slots=64)
#: Room for one adapter, and for two images or three.
TIGHT = EngineConfig(rank_slots=5, max_pooling_tokens=8)
SPECS = {
    "plain": LoraSpec(rank=4, alpha=8.0, target_modules=("all-linear",)),
    "dora": LoraSpec(rank=2, alpha=2.0, target_modules=("all-linear",), dora=True),
    "scaled": LoraSpec(rank=3, alpha=4.0, target_modules=("all-linear",), rslora=True),
}
FITTED = ("vit", "deit", "dinov2", "swin")


class Peer:
    """An adapter of random weights, its task, and peft's model of it."""

    def __init__(self, folder, backbone, spec, seed, *, side=None):
        torch.manual_seed(seed)
        stock = AutoModelForImageClassification.from_pretrained(
            folder, num_labels=len(LABELS), dtype=torch.float32
        )
        config = peft.LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            target_modules="all-linear",
            exclude_modules=["classifier"],
            modules_to_save=["classifier"],
            use_rslora=spec.rslora,
            use_dora=spec.dora,
            init_lora_weights=False,
        )
        self.model = peft.get_peft_model(stock, config).eval()
        for name, parameter in self.model.named_parameters():
            randomize(name, parameter)
        state = peft.get_peft_model_state_dict(self.model)
        self.weights = AdapterWeights(spec, {key: value.clone() for key, value in state.items()})
        self.task = build_task(
            "image-classification",
            backbone.preprocessor,
            "vision",
            LABELS,
            TaskOptions(image_size=side),
        )

    def scores(self, image):
        pixels = self.task.encode({"image": image}, 1, train=False).media()
        sized = {} if not hasattr(self.model.base_model.model, "vit") else SIZED
        with torch.no_grad():
            logits = self.model(pixel_values=pixels.unsqueeze(0), **sized).logits[0]
        return dict(zip(LABELS, logits.softmax(-1).tolist(), strict=True))


SIZED = {"interpolate_pos_encoding": True}


def images(count):
    return [
        ImageFile(f"{n}.png", shape_image(LABELS[n % 3], n, size=(36 + n, 40)))
        for n in range(count)
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = save_vision(tmp_path_factory.mktemp(request.param), request.param)
    backbone = load_backbone(str(folder), PLAIN)
    peers = {name: Peer(folder, backbone, spec, i) for i, (name, spec) in enumerate(SPECS.items())}
    return folder, peers


def engine_of(folder, peers, settings=ROOMY):
    engine = Engine(load_backbone(str(folder), PLAIN), settings)
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=f"sha256:{name}", name=name, task=peer.task)
    return engine


def assert_as_alone(answer, peer, image):
    expected = peer.scores(image)
    assert answer["scores"] == pytest.approx(expected, abs=TOLERANCE)
    assert answer["label"] == max(expected, key=expected.get)


@pytest.mark.parametrize("settings", [ROOMY, TIGHT], ids=["together", "few at a time"])
def test_mixed_images_are_classified_as_alone(family, settings):
    folder, peers = family
    engine = engine_of(folder, peers, settings)
    shown = images(9)
    names = random.Random(4).choices(list(peers), k=len(shown))
    answers = engine.label([{"image": each} for each in shown], names)
    for answer, name, image in zip(answers, names, shown, strict=True):
        assert_as_alone(answer, peers[name], image)
    alike = [peers["plain"].scores(image) for image in shown]
    others = [peers["dora"].scores(image) for image in shown]
    # the adapters do answer differently
    assert max(abs(a["red"] - b["red"]) for a, b in zip(alike, others, strict=True)) > 0.01
    engine.close()


def test_the_backbone_is_as_before_when_the_engine_is_closed(family):
    folder, peers = family
    backbone = load_backbone(str(folder), PLAIN)
    before = state_digest(backbone.base_model)
    engine = Engine(backbone, ROOMY)
    engine.load_weights(peers["plain"].weights, key="sha256:a", name="a", task=peers["plain"].task)
    engine.label([{"image": each} for each in images(2)], "a")
    engine.close()
    assert state_digest(backbone.base_model) == before


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = save_vision(tmp_path_factory.mktemp("vit"))
    backbone = load_backbone(str(folder), PLAIN)
    spec = SPECS["plain"]
    peers = {
        "own": Peer(folder, backbone, spec, 0),
        "large": Peer(folder, backbone, spec, 1, side=56),
    }
    engine = engine_of(folder, peers)
    yield engine, peers
    engine.close()


def test_adapters_read_images_of_their_own_size_in_one_batch(vit):
    engine, peers = vit
    shown = images(6)
    names = ["own", "large"] * 3
    answers = engine.label([{"image": each} for each in shown], names)
    for answer, name, image in zip(answers, names, shown, strict=True):
        assert_as_alone(answer, peers[name], image)


def test_a_damaged_image_does_not_affect_others(vit):
    engine, peers = vit
    (good,) = images(1)
    requests = engine.add_labeling({"image": good}, "own")
    with pytest.raises(DataError, match=r"x\.png.* can't be read as an image\. Supported formats"):
        engine.add_labeling({"image": ImageFile("x.png", b"not an image")}, "own")
    while not requests.finished:
        engine.step()
    assert_as_alone(requests.prediction(), peers["own"], good)


def test_an_image_that_cannot_be_resized_fails_alone(vit):
    engine, peers = vit
    (good,) = images(1)
    requests = [engine.add_labeling({"image": good}, "own") for _ in range(2)]
    (first,) = requests[0].sequences

    def broken():
        raise DataError("can't be sized")

    # what is found only when the batch is made
    first.example = replace(first.example, media=broken)
    while not all(request.finished for request in requests):
        engine.step()
    with pytest.raises(DataError, match="can't be sized"):
        requests[0].prediction()
    assert_as_alone(requests[1].prediction(), peers["own"], good)


def test_texts_are_rejected(vit):
    engine, _ = vit
    with pytest.raises(RequestError, match="reads images"):
        engine.add("a text")
    with pytest.raises(RequestError, match="reads images"):
        engine.add_embedding("a text")
    with pytest.raises(DataError, match="image"):
        engine.label(["a text"], "own")
    with pytest.raises(EngineError, match="classify"):
        engine.label([{"image": images(1)[0]}], "own", kind="token")


def test_a_blend_of_two_adapters_is_their_weighted_sum(vit):
    engine, peers = vit
    (shown,) = images(1)
    body = {k: v for k, v in peers["large"].weights.tensors.items() if "classifier" not in k}
    engine.load_weights(
        AdapterWeights(SPECS["plain"], body), key="sha256:body", name="body", task=None
    )
    (blend,) = engine.label([{"image": shown}], [[("own", 1.0), ("body", 0.0)]])
    (alone,) = engine.label([{"image": shown}], "own")
    assert blend["scores"] == pytest.approx(alone["scores"], abs=TOLERANCE)
    (mixed,) = engine.label([{"image": shown}], [[("own", 1.0), ("body", 1.0)]])
    assert abs(mixed["scores"]["red"] - alone["scores"]["red"]) > 1e-3
