"""The check of forward paths sees what each architecture needs, and what is broken."""

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from tiny_models import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapterhub.backbones import fast_decoder as fast_decoder_module
from adapterhub.backbones import float32_model, path_cache
from adapterhub.backbones import forward_paths as forward_paths_module
from adapterhub.backbones.architecture import is_decoder, kind_of
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.decoder_check import check_fast_decoder
from adapterhub.backbones.fast_decoder import FastDecoder
from adapterhub.backbones.forward_paths import PADDED_ONLY, fast_decoder, forward_paths
from adapterhub.backbones.path_check import check_forward_paths
from adapterhub.backbones.shallow_model import num_distinct_layers
from adapterhub.kernels.attention import layout, transformers_interface
from adapterhub.kernels.attention.layout import PackedSequences
from adapterhub.specs import QuantizationSpec

ALL = "packed paged padding left_padding mixed"
PADDED = "padding left_padding mixed"
ENCODER = "packed padding mixed"
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 64,
}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}

#: What is equal to transformers' own forward, and changes of the configuration.
EXPECTED = {
    # decoders with rotary or learned positions
    "llama": (ALL, {}),
    "qwen3": (ALL, {}),
    "gpt2": (ALL, {}),
    "opt": (ALL, {}),
    "qwen3_moe": (ALL, {}),
    # windows that the probes reach, and one that is narrowed for them
    "gemma3_text": (ALL, {}),
    "mistral": (ALL, {"sliding_window": 4096}),
    # a soft cap, attention sinks
    "gemma2": (PADDED, {}),
    "gpt_oss": (PADDED, {}),
    # attention that does not go through the interface, linear biases
    "stablelm": (PADDED, {}),
    "falcon": (PADDED, {}),
    "bloom": (PADDED, {}),
    # recurrent and convolutional states, multi-latent attention
    "lfm2": (PADDED, CONVOLUTION),
    "falcon_h1": (PADDED, {}),
    "mamba": ("padding mixed", {}),
    "deepseek_v3": (PADDED, {}),
    # rotary embeddings that depend on the longest sequence of a batch
    "phi3": ("mixed", {"max_position_embeddings": 512, "rope_parameters": LONG_ROPE}),
    # encoders
    "bert": (ENCODER, {}),
    "modernbert": (ENCODER, {}),
    "roberta": (ENCODER, {}),
    "mpnet": ("padding mixed", {}),
    # position layers that all sequences share, mixing of tokens over the padding
    "deberta-v2": ("padding", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "fnet": ("mixed", {}),
    # images: window attention reads position tables through a linear layer
    "vit": ("padding mixed", {}),
    "swinv2": ("padding", {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def backbone_of(model, name="tiny", quantization=None):
    decoder = is_decoder(model.config)
    base_model = model.base_model if decoder else model
    return SimpleNamespace(
        name=name,
        kind="decoder" if decoder else kind_of(model.config),
        base_model=base_model,
        config=base_model.config,
        device=torch.device("cpu"),
        quantization=quantization or QuantizationSpec("none", "float32"),
        verdicts={},
    )


def tiny_llama(**changes):
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).eval()


def equal_paths(paths):
    return " ".join(
        field.name for field in dataclasses.fields(paths) if getattr(paths, field.name) is True
    )


@pytest.mark.parametrize("model_type", EXPECTED)
def test_the_verdict_on_an_architecture(model_type):
    expected, changes = EXPECTED[model_type]
    paths = check_forward_paths(backbone_of(tiny_model(model_type, **changes)))
    assert equal_paths(paths) == expected, paths.reasons
    whole = expected in (ALL, ENCODER) or model_type == "vit"
    assert bool(paths.reasons) != whole


@pytest.mark.parametrize("model_type", ["roberta", "camembert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_start_behind_the_padding_index(model_type, dtype):
    backbone = backbone_of(tiny_model(model_type, pad_token_id=3).to(dtype))
    assert check_forward_paths(backbone).position_offset == 4
    assert check_forward_paths(backbone_of(tiny_model("bert"))).position_offset == 0


def scaled(function, factor):
    return lambda query, *rest, **options: function(query * factor, *rest, **options)


def test_a_wrong_scale_of_packed_or_paged_attention_is_seen(monkeypatch):
    for name in ("attend_packed", "attend_paged"):
        broken = scaled(getattr(transformers_interface, name), 1.01)
        with monkeypatch.context() as patch:
            patch.setattr(transformers_interface, name, broken)
            for dtype in (torch.float32, torch.bfloat16):
                paths = check_forward_paths(backbone_of(tiny_llama().to(dtype)))
                assert paths.packed == (name != "attend_packed")
                assert paths.paged == (name != "attend_paged")
                assert equal_paths(paths).endswith(PADDED)
                assert "differ" in paths.reasons[0]


def test_a_leak_between_neighbours_or_from_the_future_is_seen(monkeypatch):
    def merged(sequences):
        return iter([layout.SequenceRun(0, 1, sum(sequences.lengths), None)])

    with monkeypatch.context() as patch:
        patch.setattr(PackedSequences, "runs", merged)
        assert not check_forward_paths(backbone_of(tiny_llama())).packed
    whole = layout.AttentionParams
    with monkeypatch.context() as patch:
        patch.setattr(
            transformers_interface,
            "AttentionParams",
            lambda layer, causal, window, scale: whole(layer, False, window, scale),
        )
        assert not check_forward_paths(backbone_of(tiny_llama())).packed
        assert check_forward_paths(backbone_of(tiny_model("bert"))).packed
    with monkeypatch.context() as patch:
        patch.setattr(
            transformers_interface,
            "AttentionParams",
            lambda layer, causal, window, scale: whole(layer, causal, None, scale),
        )
        paths = check_forward_paths(backbone_of(tiny_model("mistral", sliding_window=4096)))
        assert equal_paths(paths) == PADDED


def test_settings_that_attention_would_leave_out_raise():
    module = torch.nn.Module()
    states = torch.zeros(1, 2, 3, 4)
    call = {"packed": PackedSequences((3,)), "attention_mask": None}
    attend = transformers_interface.attention_forward
    attend(module, states, states, states, softcap=None, position_ids=states, **call)
    for setting in ("softcap", "s_aux", "position_bias", "anything"):
        with pytest.raises(NotImplementedError, match=f"have no '{setting}'"):
            attend(module, states, states, states, **{setting: 1.0}, **call)


def test_an_architecture_that_fails_is_not_fast(monkeypatch):
    backbone = backbone_of(tiny_llama())

    def fail(*_args, **_inputs):
        raise KeyError("no such thing")

    monkeypatch.setattr(backbone.base_model, "forward", fail)
    paths = check_forward_paths(backbone)
    assert dataclasses.replace(paths, reasons=()) == PADDED_ONLY
    assert paths.reasons == ("no path could be checked: KeyError: 'no such thing'",)


def test_the_check_leaves_the_model_as_it_was():
    model = tiny_model("gemma3_text", sliding_window=512).to(torch.bfloat16)
    model.model.layers[0].train()
    ids = torch.arange(5, 25)[None]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random, config = torch.get_rng_state(), model.config.to_dict()
    check_forward_paths(backbone_of(model))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "sdpa"
    assert [layer.training for layer in model.model.layers] == [True, False]
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    windows = {getattr(module, "sliding_window", None) for module in model.modules()}
    assert windows == {None, 512}
    assert model(input_ids=ids).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("parallel", [False, True])
def test_an_installed_adapter_changes_no_verdict(parallel):
    model = tiny_llama()
    backbone = backbone_of(model)
    expected = check_forward_paths(backbone)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.5)
    adapted = peft.get_peft_model(model, config)
    adapted.train(parallel)
    assert check_forward_paths(backbone) == expected


def test_few_layers_stand_for_all():
    model = tiny_llama().model
    assert num_distinct_layers(model) == 2
    model.layers[2].mlp.act_fn = torch.nn.GELU()
    assert num_distinct_layers(model) == 3
    model.config.layer_kinds = ["a", "a", "a", "b"]
    assert num_distinct_layers(model) == 4


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_quantized_backbones_are_judged_as_precisely(decoder, scheme, monkeypatch):
    backbone = load_backbone(str(decoder), QuantizationSpec(scheme, "bfloat16"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = backbone.base_model(input_ids=ids).last_hidden_state
        assert equal_paths(check_forward_paths(backbone)) == ALL
        assert torch.equal(backbone.base_model(input_ids=ids).last_hidden_state, before)
    broken = scaled(transformers_interface.attend_paged, 1.02)
    monkeypatch.setattr(transformers_interface, "attend_paged", broken)
    assert not check_forward_paths(backbone).paged


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("scheme", ["none", "nf4"])
def test_the_fused_decoder_is_used_only_where_it_is_equal(
    decoder, scheme, compute, monkeypatch, caplog
):
    backbone = load_backbone(str(decoder), QuantizationSpec(scheme, compute))
    assert isinstance(fast_decoder(backbone, backbone.base_model.dtype), FastDecoder)
    broken = scaled(fast_decoder_module.attend_paged, 1.2)
    monkeypatch.setattr(fast_decoder_module, "attend_paged", broken)
    assert not check_fast_decoder(backbone)
    assert "no fused decoder: hidden states differ" in caplog.text


def test_models_too_large_for_a_float32_copy_have_their_fast_path(decoder, monkeypatch):
    monkeypatch.setattr(float32_model, "MOST_PARAMETERS", 0)
    backbone = load_backbone(str(decoder), QuantizationSpec("none", "bfloat16"))
    assert equal_paths(check_forward_paths(backbone)) == ALL
    assert check_fast_decoder(backbone)
    broken = scaled(transformers_interface.attend_paged, 0.0)
    monkeypatch.setattr(transformers_interface, "attend_paged", broken)
    assert not check_forward_paths(backbone).paged


class TestCache:
    """The verdict is found again on disk, and only where it still holds."""

    PLAIN = QuantizationSpec("none", "float32")

    @pytest.fixture
    def count(self, monkeypatch):
        """Number of checks that were made."""
        calls = []

        def check(backbone):
            calls.append(backbone.name)
            return check_forward_paths(backbone)

        monkeypatch.setattr(forward_paths_module, "check_forward_paths", check)
        return calls

    def load(self, folder, spec=PLAIN):
        return forward_paths(load_backbone(str(folder), spec))

    def test_a_verdict_is_found_again(self, encoder, count):
        found = self.load(encoder)
        assert self.load(encoder) == found
        assert len(count) == 1
        backbone = load_backbone(str(encoder), self.PLAIN)
        assert forward_paths(backbone) is forward_paths(backbone)

    def test_another_compute_type_or_version_is_checked_anew(self, encoder, count, monkeypatch):
        self.load(encoder)
        self.load(encoder, QuantizationSpec("none", "bfloat16"))
        assert len(count) == 2
        self.load(encoder)
        assert len(count) == 2
        monkeypatch.setattr(path_cache, "_versions", lambda: "another")
        self.load(encoder)
        assert len(count) == 3

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "[]",
            lambda text: text.replace('"packed": true', '"packed": "yes"'),
            lambda text: text.replace('"mixed"', '"mixt"'),
        ],
    )
    def test_a_damaged_verdict_is_checked_anew(self, encoder, count, damage):
        found = self.load(encoder)
        (file,) = Path(path_cache.backbone_cache()).glob("forward_paths/*.json")
        assert json.loads(file.read_text())
        file.write_text(damage(file.read_text()))
        assert self.load(encoder) == found
        assert len(count) == 2
        assert self.load(encoder) == found
        assert len(count) == 2

    def test_the_log_says_which_path_and_why(self, encoder, decoder, count, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        self.load(encoder)
        assert "fast path (packed sequences)" in caplog.text
        caplog.clear()
        broken = scaled(transformers_interface.attend_paged, 1.1)
        monkeypatch.setattr(transformers_interface, "attend_paged", broken)
        self.load(decoder)
        (record,) = [r for r in caplog.records if r.name == forward_paths_module.__name__]
        assert record.levelno == logging.WARNING
        assert "fast path (packed sequences); not used: the paged KV cache" in record.message

    def test_an_adapter_finds_the_verdicts_on_its_backbone(self, encoder, decoder):
        found = self.load(encoder)
        self.load(decoder)
        fingerprint = load_backbone(str(encoder), self.PLAIN).fingerprint
        assert path_cache.stored_paths(fingerprint) == [found]
        assert path_cache.stored_paths("sha256:other+none") == []
