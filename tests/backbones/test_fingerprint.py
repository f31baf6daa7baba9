"""Fingerprints: equal for the same backbone in any place and file layout, else different."""

import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import change_config
from transformers import AutoModelForCausalLM

from adapterhub.backbones import fingerprint as module
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.fingerprint import (
    check_fingerprint,
    full_fingerprint,
    weights_fingerprint,
)
from adapterhub.errors import BackboneError, FingerprintMismatch
from adapterhub.specs import QuantizationSpec


@pytest.fixture
def other(decoder, tmp_path):
    """A copy of the decoder, to be changed."""
    return shutil.copytree(decoder, tmp_path / "other")


def edit_json(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=1, sort_keys=True))


def test_a_copy_has_the_same_fingerprint(decoder, other):
    assert weights_fingerprint(decoder) == weights_fingerprint(other)


@pytest.mark.parametrize(
    "volatile",
    [
        {"transformers_version": "9.9"},
        {"_name_or_path": "/somewhere"},
        {"dtype": "float16"},
        {"torch_dtype": "float16"},
        {"quantization_config": {"load_in_4bit": True}},
        {"use_cache": False},
        {"rope_parameters": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_the_architecture_of_a_configuration_counts(decoder, other, volatile):
    change_config(other, **volatile)
    same = weights_fingerprint(decoder) == weights_fingerprint(other)
    assert same == ("rope_parameters" not in volatile)


def test_sharded_weights_have_the_same_fingerprint(decoder, other):
    model = AutoModelForCausalLM.from_pretrained(other)
    (other / "model.safetensors").unlink()
    model.save_pretrained(other, max_shard_size="40KB")
    assert len(list(other.glob("*.safetensors"))) > 1
    assert weights_fingerprint(decoder) == weights_fingerprint(other)


def test_order_of_tensors_and_keys_does_not_count(decoder, other):
    tensors = load_file(other / "model.safetensors")
    backwards = dict(reversed(tensors.items()))
    save_file(backwards, other / "model.safetensors", metadata={"format": "pt", "extra": "x"})
    edit_json(other / "config.json", lambda _: None)
    edit_json(other / "tokenizer.json", lambda _: None)
    assert weights_fingerprint(decoder) == weights_fingerprint(other)


def test_truncation_saved_with_a_tokenizer_does_not_count(decoder, other):
    edit_json(other / "tokenizer.json", lambda t: t.update(truncation={"max_length": 8}))
    assert weights_fingerprint(decoder) == weights_fingerprint(other)


def flip_a_bit(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].view(torch.uint8)[0] ^= 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm2.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def swap_two_words(folder):
    def swap(document):
        words = document["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]

    edit_json(folder / "tokenizer.json", swap)


def change_template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def change_epsilon(folder):
    change_config(folder, rms_norm_eps=1e-3)


@pytest.mark.parametrize(
    "change", [flip_a_bit, rename_a_tensor, swap_two_words, change_template, change_epsilon]
)
def test_any_change_of_the_computation_changes_it(decoder, other, change):
    change(other)
    assert weights_fingerprint(decoder) != weights_fingerprint(other)


def test_the_chat_template_counts_the_same_in_either_file(decoder, other):
    template = other / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    edit_json(other / "tokenizer_config.json", lambda c: c.update(chat_template=text))
    assert weights_fingerprint(decoder) == weights_fingerprint(other)


def test_scheme_counts_and_compute_type_does_not(decoder):
    found = {
        spec: load_backbone(str(decoder), spec, device="cpu").fingerprint
        for spec in (
            QuantizationSpec("nf4", "bfloat16"),
            QuantizationSpec("nf4", "float32"),
            QuantizationSpec("int8", "bfloat16"),
        )
    }
    a, b, c = found.values()
    assert a == b == f"{weights_fingerprint(decoder)}+nf4"
    assert c == f"{weights_fingerprint(decoder)}+int8"


def test_it_is_computed_once(decoder, monkeypatch):
    first = weights_fingerprint(decoder)
    monkeypatch.setattr(module, "_digest", lambda _: pytest.fail("computed again"))
    assert weights_fingerprint(decoder) == first


def test_it_is_computed_again_when_a_file_changes(decoder):
    first = weights_fingerprint(decoder)
    flip_a_bit(decoder)
    later = time.time() + 5
    os.utime(decoder / "model.safetensors", (later, later))
    assert weights_fingerprint(decoder) != first


def test_nothing_is_written_into_a_users_folder(decoder):
    before = sorted(decoder.iterdir())
    weights_fingerprint(decoder)
    assert sorted(decoder.iterdir()) == before


@pytest.mark.parametrize("damage", ["", "[]", '{"form": 2}', '{"digest": "sha256:0"}'])
def test_a_damaged_cache_file_is_ignored(decoder, tmp_path, damage):
    first = weights_fingerprint(decoder, cache=tmp_path / "cache")
    (cache_file,) = (tmp_path / "cache").rglob("*.json")
    cache_file.write_text(damage)
    assert weights_fingerprint(decoder, cache=tmp_path / "cache") == first


def test_it_works_without_a_writable_cache(decoder, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert weights_fingerprint(decoder, cache=blocked).startswith("sha256:")


def test_damaged_weights_are_named(decoder):
    path = decoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BackboneError, match="weights can't be read"):
        weights_fingerprint(decoder)


def test_a_mismatch_names_both_unless_forced(caplog):
    found = full_fingerprint("sha256:aa", QuantizationSpec("int8"))
    check_fingerprint(found, "support@3", found)
    with pytest.raises(FingerprintMismatch, match=r"support@3.*sha256:aa\+nf4.*sha256:aa\+int8"):
        check_fingerprint(found, "support@3", "sha256:aa+nf4")
    check_fingerprint(found, "support@3", "sha256:aa+nf4", force=True)
    assert "support@3" in caplog.text
