"""Quantization: which layers are quantized, and that no forward pass changes them."""

import copy
import warnings

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_backbones import save_decoder, save_encoder
from torch import nn

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

SCHEMES = ["nf4", "fp4", "int8", "none"]
IDS = torch.arange(3, 27).reshape(2, 12)


def load(folder, scheme, compute="bfloat16"):
    return load_backbone(str(folder), QuantizationSpec(scheme, compute), device="cpu")


def quantized(module):
    return isinstance(module, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))


def hidden(base_model, ids=IDS):
    return base_model(input_ids=ids).last_hidden_state


def evaluate(base_model):
    base_model.eval()
    with torch.no_grad():
        hidden(base_model)


def gradient_at_embeddings(base_model):
    """Return the gradient that training passes below the first layer."""
    base_model.train()
    for module in base_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = base_model.get_input_embeddings()(IDS).detach().requires_grad_(True)
    base_model(inputs_embeds=inputs).last_hidden_state[:, ::2].float().square().sum().backward()
    return inputs.grad


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
@pytest.mark.parametrize("save", [save_decoder, save_encoder])
def test_an_evaluation_changes_neither_bytes_nor_the_gradient(tmp_path, save, scheme, compute):
    """Residual connections pass a gradient on their own, so part of it may be lost:
    it must equal the gradient before the evaluation."""
    base_model = load(save(tmp_path / "backbone"), scheme, compute).base_model
    digest = state_digest(base_model)
    before = gradient_at_embeddings(base_model)

    evaluate(base_model)

    after = gradient_at_embeddings(base_model)
    assert torch.equal(after, before)
    assert after.float().abs().amax() > 0
    assert state_digest(base_model) == digest


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_every_layer_passes_a_gradient_on_after_an_evaluation(decoder, scheme):
    base_model = load(decoder, scheme).base_model
    evaluate(base_model)
    base_model.train()
    for name, layer in base_model.named_modules():
        if quantized(layer):
            x = torch.randn(3, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
            layer(x).float().square().sum().backward()
            assert x.grad is not None, name
            assert x.grad.abs().amax() > 0, name


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_no_layer_may_repack_its_weights(decoder, scheme):
    """The test above fails only on CPUs with AVX512-BF16, this one on all."""
    layers = [
        m for m in load(decoder, scheme).base_model.modules() if isinstance(m, bnb.nn.Linear4bit)
    ]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.skipif(
    not bnb.nn.Linear4bit(64, 64).support_avx512bf16_for_cpu, reason="a CPU without AVX512-BF16"
)
def test_repacking_damages_a_layer(decoder):
    """Without the attribute bytes change or the gradient is lost."""
    base_model = load(decoder, "nf4").base_model
    for module in base_model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = True
    digest = state_digest(base_model)
    before = gradient_at_embeddings(base_model)
    evaluate(base_model)
    assert state_digest(base_model) != digest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns once that no gradient is defined
        after = gradient_at_embeddings(base_model)
    assert not torch.equal(after, before)


def test_the_attribute_survives_a_deep_copy(decoder):
    base_model = copy.deepcopy(load(decoder, "nf4").base_model)
    digest = state_digest(base_model)
    evaluate(base_model)
    assert state_digest(base_model) == digest


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("save", [save_decoder, save_encoder])
def test_only_linear_layers_are_quantized(tmp_path, save, scheme):
    backbone = load(save(tmp_path / "backbone"), scheme)
    for name, module in backbone.base_model.named_modules():
        if isinstance(module, nn.Linear):
            assert quantized(module), name
        else:
            floats = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
            assert all(p.dtype == torch.bfloat16 for p in floats), name
    assert not quantized(backbone.base_model.get_input_embeddings())
    assert not quantized(backbone.lm_head)


def test_scales_of_four_bit_blocks_are_not_quantized_again(decoder):
    layer = load(decoder, "nf4").base_model.layers[0].mlp.up_proj
    assert not layer.weight.quant_state.nested
    assert layer.weight.quant_state.absmax.dtype == torch.float32


@pytest.mark.parametrize(("scheme", "bound"), [("nf4", 0.15), ("fp4", 0.2), ("int8", 0.03)])
@pytest.mark.parametrize("save", [save_decoder, save_encoder])
def test_output_is_near_the_unquantized_one(tmp_path, save, scheme, bound):
    folder = save(tmp_path / "backbone")
    with torch.no_grad():
        exact = hidden(load(folder, "none", "float32").base_model)
        rounded = hidden(load(folder, scheme, "float32").base_model)
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < bound


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_codes_do_not_depend_on_the_compute_type(decoder, scheme):
    """Weights stored in float32 are quantized from float32 for any compute type."""
    codes = {
        compute: [
            m.weight.data
            for m in load(decoder, scheme, compute).base_model.modules()
            if quantized(m)
        ]
        for compute in ("bfloat16", "float32")
    }
    assert all(map(torch.equal, codes["bfloat16"], codes["float32"]))


def test_an_int8_token_does_not_depend_on_its_batch(decoder):
    layer = load(decoder, "int8", "float32").base_model.layers[0].mlp.up_proj
    torch.manual_seed(0)
    token = torch.randn(1, 64)
    token[0, 3] = 40.0  # an outlier, which a threshold would treat separately
    loud = torch.cat([token, 1000 * torch.randn(7, 64)])
    with torch.no_grad():
        alone, beside = layer(token), layer(loud)[:1]
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_peft_trains_on_quantized_layers_without_changing_them(decoder, scheme):
    backbone = load(decoder, scheme)
    before = {
        "base_model": state_digest(backbone.base_model),
        "head": state_digest(backbone.lm_head),
    }
    torch.manual_seed(0)
    model = get_peft_model(backbone.base_model, LoraConfig(r=4, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    start = [p.detach().clone() for p in trained]
    for _ in range(3):
        model.train()
        hidden(model).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            hidden(model)
    assert all(not torch.equal(old, new) for old, new in zip(start, trained, strict=True))
    base_model = model.unload()
    assert {
        "base_model": state_digest(base_model),
        "head": state_digest(backbone.lm_head),
    } == before


def test_state_digest_covers_every_bit_of_codes_and_scales(decoder):
    for scheme in ("nf4", "int8"):
        base_model = load(decoder, scheme).base_model
        digests = [state_digest(base_model)]
        layer = base_model.layers[1].self_attn.o_proj
        layer.weight.data.view(torch.uint8)[0, 0] ^= 1
        digests.append(state_digest(base_model))
        scales = layer.weight.quant_state.absmax if scheme == "nf4" else layer.weight.SCB
        scales.view(torch.uint8)[0] ^= 1
        digests.append(state_digest(base_model))
        assert len(set(digests)) == 3


def test_an_architecture_without_linear_layers_is_refused():
    with pytest.raises(BackboneError, match="no linear layer to quantize to nf4"):
        quantize_linears(nn.Embedding(4, 4), QuantizationSpec("nf4"), torch.device("cpu"))


def test_default_compute_type_follows_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert default_compute_dtype(torch.device("cpu")) == "float32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert default_compute_dtype(torch.device("cpu")) == "bfloat16"
