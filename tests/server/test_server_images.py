"""Images over HTTP: a server around a backbone that reads them."""

import base64
import io

import pytest
import torch
from http_server_helpers import UNQUANTIZED, running_server, store
from PIL import Image
from vision_backbones import save_vision, shape_image

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.images import ImageFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec

TASK = "image-classification"
WIDTH = 32
COLOURS = ("green", "red", "blue")


def random_adapter(seed):
    """Return LoRA on a ViT's queries, and a head for three labels."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        "base_model.model.classifier.weight": torch.randn(3, WIDTH, generator=draw),
        "base_model.model.classifier.bias": torch.zeros(3),
    }
    for layer in range(2):
        key = f"base_model.model.vit.layers.{layer}.attention.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, WIDTH, generator=draw)
        tensors[f"{key}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=draw)
    return AdapterWeights(LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj",)), tensors)


def address(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Yield a server, and an engine that answers alone."""
    home = tmp_path_factory.mktemp("seen")
    folder = save_vision(home / "vit")
    backbone = load_backbone(str(folder), UNQUANTIZED)
    registry, local = Registry(home / "registry"), LocalEngine(backbone)
    for seed, name in enumerate(("colours", "shades")):
        weights = random_adapter(seed)
        store(registry, home / name, name, weights, backbone.fingerprint, task=TASK)
        local.load(read_artifact(registry.materialize(registry.resolve(name))), name=name)
    with running_server(folder, registry) as served:
        yield served, local


def test_images_for_several_adapters_are_classified_as_by_predict(seen):
    served, local = seen
    contents = [shape_image(colour, number) for number, colour in enumerate(COLOURS)]
    names = ["colours", "shades", "colours"]
    items = [
        {"model": name, "input": {"image": address(content)}}
        for name, content in zip(names, contents, strict=True)
    ]
    answer = served.post("/v1/classify", {"items": items})
    assert answer.status_code == 200, answer.text
    for found, name, content in zip(answer.json()["data"], names, contents, strict=True):
        (alone,) = local.adapter(name).predict([{"image": ImageFile("x", content)}])
        assert found["label"] == alone["label"]
        assert found["scores"] == pytest.approx(alone["scores"], abs=1e-4)
        assert found["digest"] == served.digest(name)


def test_one_model_takes_a_list_of_jpegs(seen):
    served, _ = seen
    images = [{"image": address(shape_image("red", n, form="JPEG"), "jpeg")} for n in range(2)]
    answer = served.post("/v1/classify", {"model": "colours", "input": images})
    assert [each["index"] for each in answer.json()["data"]] == [0, 1]


def large_image():
    content = io.BytesIO()
    Image.new("L", (5000, 5000)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("https://example.org/cat.png", "nothing is fetched"),
        ("file:///etc/passwd", "not a data: URL"),
        ("data:image/png;base64,%%%", "not base64"),
        (address(b"no image"), "can't be read as an image"),
        (address(large_image()), "25000000 pixels"),
    ],
    ids=["link", "file", "coding", "format", "size"],
)
def test_invalid_images_are_rejected(seen, given, problem):
    served, _ = seen
    answer = served.post("/v1/classify", {"model": "colours", "input": {"image": given}})
    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "input.image"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/classify", {"input": "a text"}),
        ("/v1/tag", {"input": "a text"}),
        ("/v1/answer", {"input": {"question": "which?", "context": "a text"}}),
        ("/v1/generate", {"input": "a text"}),
        ("/v1/rerank", {"query": "a text", "documents": ["another"]}),
        ("/v1/embeddings", {"input": "a text"}),
        ("/v1/completions", {"prompt": "a text"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a text"}]}),
    ],
)
def test_texts_are_rejected_with_the_reason(seen, path, body):
    served, _ = seen
    answer = served.post(path, {"model": "colours", **body})
    assert answer.status_code == 400, answer.text
    assert "image" in answer.json()["error"]["message"]


def test_the_kind_of_the_backbone_is_listed(seen):
    served, _ = seen
    first, *others = served.request("GET", "/v1/models").json()["data"]
    assert first["kind"] == "vision"
    assert {each["id"] for each in others} >= {"colours", "shades"}
    assert served.request("GET", "/ready").status_code == 200
    assert served.request("GET", "/metrics").status_code == 200


def test_an_image_for_an_adapter_of_a_text_task_is_rejected(served):
    content = shape_image("red", 1)
    answer = served.post("/v1/classify", {"model": "moods", "input": {"image": address(content)}})
    assert answer.status_code == 400
    assert "text" in answer.json()["error"]["message"]
