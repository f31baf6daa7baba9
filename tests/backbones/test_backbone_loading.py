"""Loading of architectures of all kinds, against transformers' own ``from_pretrained``."""

import cProfile
import json
import logging

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from tiny_models import is_vision, probe_inputs, tiny_model, tiny_model_folder
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    BertConfig,
    XLMConfig,
)

from adapterhub.backbones.architecture import kind_of
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.module_sharing import AbsentModule
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
AUTO = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModel,
    "vision": AutoModelForImageClassification,
}


def load(folder, quantization=PLAIN):
    return load_backbone(str(folder), quantization, device="cpu")


def own_base_model(folder, backbone, dtype):
    model = AUTO[backbone.kind].from_pretrained(folder, dtype=dtype).eval()
    if backbone.kind == "encoder":
        return model
    return getattr(model, "vision_model", None) or model.base_model


def inputs_of(model, dtype):
    inputs = probe_inputs(model)
    if is_vision(model.config):
        return {"pixel_values": inputs["pixel_values"].to(dtype)}
    return inputs


@pytest.mark.parametrize(
    ("model_type", "kind", "attention"),
    [
        ("roberta", "encoder", "sdpa"),
        ("deberta-v2", "encoder", "eager"),
        ("mpnet", "encoder", "eager"),
        ("electra", "encoder", "sdpa"),
        ("gpt2", "decoder", "sdpa"),
        ("falcon", "decoder", "sdpa"),
        ("bloom", "decoder", "eager"),
        ("gemma2", "decoder", "eager"),
        ("gpt_oss", "decoder", "eager"),
        ("deepseek_v3", "decoder", "sdpa"),
        ("mamba", "decoder", "eager"),
        ("falcon_h1", "decoder", "sdpa"),
        ("qwen3_next", "decoder", "sdpa"),
        ("gemma3", "decoder", "sdpa"),
        ("clip", "vision", "sdpa"),
        ("siglip", "vision", "sdpa"),
        ("swinv2", "vision", "eager"),
    ],
)
def test_hidden_states_equal_those_of_transformers(tmp_path, model_type, kind, attention):
    folder = tiny_model_folder(tmp_path, model_type)
    backbone = load(folder)
    assert (backbone.kind, backbone.attn_implementation) == (kind, attention)
    with torch.no_grad():
        inputs = inputs_of(tiny_model(model_type), torch.float32)
        expected = own_base_model(folder, backbone, torch.float32)(**inputs)[0]
        assert torch.equal(backbone.base_model(**inputs)[0], expected)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["deepseek_v3", "gemma3_text", "rwkv", "swinv2"])
def test_types_are_those_that_transformers_chooses(tmp_path, model_type, compute):
    """The file is bfloat16, so that buffers computed from it would be rounded."""
    dtype = getattr(torch, compute)
    model = tiny_model(model_type).to(torch.bfloat16)
    folder = tiny_model_folder(tmp_path, model_type)
    model.save_pretrained(folder)
    backbone = load(folder, QuantizationSpec("none", compute))
    own = own_base_model(folder, backbone, dtype)
    for tensors in ("named_parameters", "named_buffers"):
        found = {name: tensor.dtype for name, tensor in getattr(backbone.base_model, tensors)()}
        assert found == {name: tensor.dtype for name, tensor in getattr(own, tensors)()}
    with torch.no_grad():
        inputs = inputs_of(model, dtype)
        assert torch.equal(backbone.base_model(**inputs)[0], own(**inputs)[0])


@pytest.mark.parametrize(
    ("model_type", "quantized", "left"),
    [
        ("gpt2", "h.0.attn.c_attn", None),
        ("falcon", "h.0.mlp.dense_h_to_4h", None),
        ("bloom", "h.0.mlp.dense_4h_to_h", None),
        ("mamba", "layers.0.mixer.in_proj", "layers.0.mixer.dt_proj"),
        ("rwkv", "blocks.0.attention.key", "blocks.0.attention.output"),
    ],
)
def test_linear_layers_are_quantized_unless_others_read_them(tmp_path, model_type, quantized, left):
    folder = tiny_model_folder(tmp_path, model_type)
    backbone = load(folder, QuantizationSpec("nf4", "float32"))
    assert isinstance(backbone.base_model.get_submodule(quantized), Linear4bit)
    assert left is None or not isinstance(backbone.base_model.get_submodule(left), Linear4bit)
    with torch.no_grad():
        inputs = inputs_of(tiny_model(model_type), torch.float32)
        exact = load(folder).base_model(**inputs)[0]
        found = backbone.base_model(**inputs)[0]
    assert (found - exact).std() < 0.5 * exact.std()


def test_experts_in_one_tensor_stay_in_the_compute_type(tmp_path, caplog):
    folder = tiny_model_folder(tmp_path, "mixtral")
    with caplog.at_level(logging.INFO, logger="adapterhub"):
        base_model = load(folder, QuantizationSpec("nf4", "bfloat16")).base_model
    assert base_model.layers[0].mlp.experts.gate_up_proj.dtype == torch.bfloat16
    assert "are not quantized to nf4" in caplog.text


def test_an_architecture_that_fails_in_the_compute_type_is_computed_in_float32(tmp_path, caplog):
    folder = tiny_model_folder(tmp_path, "deberta")
    backbone = load(folder, QuantizationSpec("nf4", "bfloat16"))
    assert backbone.quantization == QuantizationSpec("nf4", "float32")
    assert "computing in float32, because in bfloat16" in caplog.text


def test_a_missing_pooler_is_known(tmp_path):
    assert load(tiny_model_folder(tmp_path, "bert", "masked_lm")).missing == ("pooler",)
    assert load(tiny_model_folder(tmp_path, "roberta")).missing == ()


def test_a_pooler_that_the_class_always_has_is_replaced(tmp_path):
    folder = tiny_model_folder(tmp_path, "squeezebert")
    path = folder / "model.safetensors"
    kept = {name: t for name, t in load_file(path).items() if "pooler" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    backbone = load(folder)
    assert backbone.missing == ("pooler",)
    assert isinstance(backbone.base_model.pooler, AbsentModule)


def test_the_kind_follows_from_the_configuration():
    kinds = {
        "encoder": [BertConfig(), XLMConfig(), AutoConfig.for_model("xlm-roberta")],
        "decoder": [BertConfig(is_decoder=True), XLMConfig(causal=True)],
        "vision": [AutoConfig.for_model("clip"), AutoConfig.for_model("dinov2")],
        "audio": [AutoConfig.for_model(name) for name in ("wav2vec2", "hubert", "whisper")],
    }
    assert all(kind_of(config) == kind for kind, configs in kinds.items() for config in configs)
    with pytest.raises(BackboneError, match="reads neither text, images nor audio alone"):
        kind_of(AutoConfig.for_model("encodec"))


def test_code_that_would_be_needed_is_named(tmp_path):
    folder = tiny_model_folder(tmp_path, "llama")
    set_config(folder, model_type="evil", auto_map={"AutoConfig": "configuration_evil.E"})
    with pytest.raises(BackboneError, match="needs code from its repository, which is never run"):
        load(folder)


def test_advice_of_transformers_is_left_out(tmp_path):
    folder = tiny_model_folder(tmp_path, "vit")
    document = AutoConfig.for_model("dinat").to_dict()
    (folder / "config.json").write_text(json.dumps(document, default=str))
    with pytest.raises(BackboneError, match="requires the natten library") as caught:
        load(folder)
    assert "install" not in str(caught.value)


def set_config(folder, **fields):
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | fields))


def test_weights_in_eight_bit_floats_are_dequantized(tmp_path):
    shape = {"hidden_size": 128, "num_key_value_heads": 4, "head_dim": 32}
    folder = tiny_model_folder(tmp_path, "llama", **shape)
    path = folder / "model.safetensors"
    stored = load_file(path)
    for name in [name for name in stored if "_proj.weight" in name]:
        stored[name] = stored[name].to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = torch.full((1, 1), 2.0)
    save_file(stored, path, metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    set_config(folder, quantization_config=settings)
    backbone = load(folder, QuantizationSpec("nf4", "float32"))
    assert isinstance(backbone.base_model.layers[0].mlp.up_proj, Linear4bit)
    weight = load(folder).base_model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, stored["model.layers.0.mlp.up_proj.weight"].float() * 2)


def test_weights_that_stay_quantized_are_refused(tmp_path):
    folder = tiny_model_folder(tmp_path, "llama")
    set_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(BackboneError, match=r"already quantized \(bitsandbytes\)"):
        load(folder)


def test_a_backbone_loads_under_a_profiler(tmp_path):
    folder = tiny_model_folder(tmp_path, "bert")
    with cProfile.Profile() as profile:
        loaded = load(folder, QuantizationSpec("nf4", "float32"))
    assert any(isinstance(module, Linear4bit) for module in loaded.base_model.modules())
    assert profile.getstats()
