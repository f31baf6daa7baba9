"""Fused decoder layers have transformers' outputs and gradients, and give way to other uses."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, LlamaConfig, MistralConfig, Qwen2Config

from adapterhub.backbones import trained_layers
from adapterhub.backbones.trained_layers import fuse_decoder_layers, restore_decoder_layers
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.kernels.attention.transformers_interface import fast_attention

LENGTHS = (4, 9, 1)
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def tiny(name="llama", dtype=torch.float32, **changes):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 11}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    if name == "mistral":
        heads["sliding_window"] = None
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[name](**sizes, **heads, **changes)).to(dtype).eval()
    return model.requires_grad_(False)


def states(model, x):
    """Return the hidden states of packed sequences with input embeddings ``x``."""
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    with fast_attention(model):
        output = model(
            inputs_embeds=x,
            position_ids=positions,
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            packed=PackedSequences(LENGTHS),
            use_cache=False,
        )
    return output.last_hidden_state


def run(model):
    """Return hidden states, and the gradient of the input embeddings."""
    x = torch.randn(1, sum(LENGTHS), 32, generator=torch.Generator().manual_seed(1))
    x = x.to(model.dtype).requires_grad_()
    out = states(model, x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return out.detach(), torch.autograd.grad((out * weights).sum(), x)[0]


@pytest.fixture
def calls(monkeypatch):
    """Numbers of tokens that fused layers computed."""
    seen, fused = [], trained_layers._fused

    def counted(layer, x, *others):
        seen.append(x.shape[1])
        return fused(layer, x, *others)

    monkeypatch.setattr(trained_layers, "_fused", counted)
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_those_of_transformers(name, calls):
    model = tiny(name)
    expected = run(model)
    assert fuse_decoder_layers(model) == 2
    calls.clear()
    for ours, theirs in zip(run(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert calls == [sum(LENGTHS)] * 2


def test_bfloat16_is_as_close_to_float32_as_transformers(calls):
    exact, narrow = run(tiny()), tiny(dtype=torch.bfloat16)
    own = run(narrow)
    fuse_decoder_layers(narrow)
    for ours, theirs, wanted in zip(run(narrow), own, exact, strict=True):
        assert (ours.float() - wanted).norm() <= 1.2 * (theirs.float() - wanted).norm()


def test_without_gradients_or_with_trained_norms_layers_compute_as_before(calls):
    model = tiny()
    fuse_decoder_layers(model)
    calls.clear()
    with torch.no_grad():
        states(model, torch.zeros(1, sum(LENGTHS), 32))
    model(inputs_embeds=torch.zeros(1, 3, 32, requires_grad=True), use_cache=True)
    for layer in model.layers:
        layer.input_layernorm.weight.requires_grad_(True)
    run(model)
    assert calls == []


def test_restored_layers_have_their_own_forward():
    model = tiny()
    before = run(model)
    fuse_decoder_layers(model)
    assert fuse_decoder_layers(model) == 2
    restore_decoder_layers(model)
    assert not any("forward" in vars(layer) for layer in model.layers)
    assert torch.equal(run(model)[1], before[1])


def test_a_layer_that_computes_otherwise_is_left_alone(caplog):
    model = tiny()
    for layer in model.layers:
        layer.mlp.act_fn = nn.GELU()
    assert fuse_decoder_layers(model) == 0
    assert "LlamaDecoderLayer: compiled layer differs" in caplog.text


@pytest.mark.parametrize("changes", [{"hidden_act": "gelu"}, {"dtype": torch.float16}])
def test_other_activations_and_types_are_left_alone(changes):
    assert fuse_decoder_layers(tiny(**changes)) == 0
