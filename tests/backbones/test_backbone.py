"""Loading a backbone: kind, shared weights, types, freezing and errors."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import change_config, save_decoder, save_gemma, save_tokenizer
from tiny_configs import bert_config
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertForMaskedLM,
    BigBirdPegasusConfig,
    BlenderbotSmallConfig,
    BlenderbotSmallForCausalLM,
    CanineConfig,
    CanineModel,
    EncoderDecoderConfig,
    FSMTConfig,
    Speech2TextConfig,
    VisionEncoderDecoderConfig,
    ViTConfig,
)

from adapterhub.backbones.architecture import read_architecture
from adapterhub.backbones.backbone import load_backbone
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

IDS = torch.arange(3, 15).reshape(1, 12)
PLAIN = QuantizationSpec("none", "float32")


def load(folder, quantization=PLAIN):
    return load_backbone(str(folder), quantization, device="cpu")


def test_decoder_equals_transformers(decoder):
    backbone = load(decoder)
    expected = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    with torch.no_grad():
        logits = backbone.lm_head(backbone.base_model(input_ids=IDS).last_hidden_state)
        assert_close(logits, expected(input_ids=IDS).logits)
    assert backbone.kind == "decoder"


def test_encoder_equals_transformers(encoder):
    backbone = load(encoder)
    expected = AutoModel.from_pretrained(encoder, dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = backbone.base_model(input_ids=IDS), expected(input_ids=IDS)
    assert_close(ours.pooler_output, theirs.pooler_output)
    assert backbone.kind == "encoder"
    assert backbone.lm_head is None


def test_the_token_embedding_is_found_wherever_it_is(encoder):
    backbone = load(encoder)
    assert backbone.token_embedding is backbone.base_model.embeddings.word_embeddings
    with torch.device("meta"):
        config = BlenderbotSmallConfig()
        decoder = BlenderbotSmallForCausalLM(config).model
        characters = CanineModel(CanineConfig())
    alone = replace(backbone, base_model=decoder)
    assert alone.token_embedding is decoder.decoder.embed_tokens
    assert replace(backbone, base_model=characters).token_embedding is None


@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
def test_gemma_scales_its_embeddings_as_in_the_compute_type(tmp_path, compute):
    folder = save_gemma(tmp_path / "gemma")
    backbone = load(folder, QuantizationSpec("none", compute))
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, compute))
    with torch.no_grad():
        ours = backbone.base_model(input_ids=IDS).last_hidden_state
        assert_close(ours, expected.model(input_ids=IDS).last_hidden_state)


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8", "none"])
def test_everything_is_frozen_and_in_evaluation_mode(decoder, encoder, scheme):
    for folder in (decoder, encoder):
        backbone = load(folder, QuantizationSpec(scheme, "bfloat16"))
        modules = [m for m in (backbone.base_model, backbone.lm_head) if m is not None]
        assert not any(p.requires_grad for m in modules for p in m.parameters())
        assert not any(layer.training for m in modules for layer in m.modules())


def test_tied_head_shares_the_embeddings(decoder):
    backbone = load(decoder, QuantizationSpec("nf4", "bfloat16"))
    assert backbone.lm_head.weight is backbone.base_model.get_input_embeddings().weight


def test_rotary_frequencies_stay_in_float32(decoder):
    base_model = load(decoder, QuantizationSpec("nf4", "bfloat16")).base_model
    assert base_model.rotary_emb.inv_freq.dtype == torch.float32


def test_parameters_are_counted_before_quantization(decoder):
    counts = {
        scheme: load(decoder, QuantizationSpec(scheme, "bfloat16")).parameters
        for scheme in ("nf4", "int8", "none")
    }
    expected = AutoModelForCausalLM.from_pretrained(decoder).num_parameters()
    assert set(counts.values()) == {expected}


def test_memory_of_each_scheme(decoder):
    """Embeddings 96 x 64 and 5 norms of 64 in two bytes, 32 bytes of rotary frequencies
    (twice: transformers keeps the original too), linear layers by the scheme."""
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    rest = 2 * (96 * 64 + 5 * 64) + 2 * 8 * 4
    outputs = 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)
    layers = 14
    sizes = {
        scheme: load(decoder, QuantizationSpec(scheme, "bfloat16")).memory_bytes
        for scheme in ("nf4", "int8", "none")
    }
    assert sizes["none"] == rest + 2 * linear
    assert sizes["int8"] == rest + linear + 4 * outputs
    table = sizes["nf4"] - rest - linear // 2 - 4 * linear // 64
    assert table in (16 * 4, layers * 16 * 4)  # the 16 levels, shared or one copy per layer


def test_loaded_weights_outlive_the_file(tmp_path):
    folder = save_decoder(tmp_path / "decoder")
    backbone = load(folder)
    before = backbone.base_model.get_input_embeddings().weight.clone()
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(bytes(1000))
    assert torch.equal(backbone.base_model.get_input_embeddings().weight, before)


def test_a_local_folder_has_neither_hub_id_nor_license(decoder):
    backbone = load(decoder)
    assert (backbone.hub_id, backbone.revision, backbone.license) == (None, None, None)
    assert backbone.path == decoder


def test_a_checkpoint_without_pooler_gets_none(tmp_path):
    config = bert_config(vocab_size=96, num_hidden_layers=1)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load(tmp_path).base_model.pooler is None


def test_missing_tensor_is_named(decoder):
    tensors = load_file(decoder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, decoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"1 tensors .* missing.*layers\.1\.mlp\.up_proj"):
        load(decoder)


def test_tensor_of_another_shape_is_refused(decoder):
    change_config(decoder, intermediate_size=256)
    with pytest.raises(BackboneError, match="can't be loaded"):
        load(decoder)


def test_damaged_weights_are_refused(decoder):
    path = decoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BackboneError, match="can't be loaded"):
        load(decoder)


def test_unknown_architecture_is_refused(decoder):
    change_config(decoder, model_type="telepathy")
    with pytest.raises(BackboneError, match=r"architecture is not supported.*telepathy"):
        load(decoder)


def test_code_in_a_backbone_folder_is_never_run(decoder):
    marker = decoder / "ran"
    code = f"open({str(marker)!r}, 'w').close()\n"
    (decoder / "modeling_evil.py").write_text(code)
    (decoder / "configuration_evil.py").write_text(code)
    change_config(
        decoder,
        model_type="evil",
        auto_map={"AutoConfig": "configuration_evil.E", "AutoModel": "modeling_evil.E"},
    )
    with pytest.raises(BackboneError):
        load(decoder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            Speech2TextConfig(),
            "'speech_to_text' reads audio, and encoder-decoders of audio are not supported",
        ),
        (
            EncoderDecoderConfig(encoder=bert_config().to_dict(), decoder=bert_config().to_dict()),
            "of two models",
        ),
        (
            VisionEncoderDecoderConfig(
                encoder=ViTConfig().to_dict(), decoder=bert_config().to_dict()
            ),
            "does not map text to text",
        ),
        (FSMTConfig(), "'fsmt' shifts the source in place of the target"),
        (BigBirdPegasusConfig(), "block-sparse attention is not supported: .*original_full"),
    ],
)
def test_encoder_decoders_of_other_inputs_are_refused(tmp_path, config, problem):
    config.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=problem):
        read_architecture(tmp_path)


def test_broken_tokenizer_is_refused(decoder):
    (decoder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(BackboneError, match="tokenizer can't be read"):
        load(decoder)
