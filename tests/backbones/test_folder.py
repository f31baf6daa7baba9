"""Errors about a user's backbone folder, each in one line."""

import json

import pytest

from adapterhub.backbones.folder import check_folder, read_json
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.errors import BackboneError


def refused(folder, message):
    with pytest.raises(BackboneError, match=message) as caught:
        fetch_backbone(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_complete_folder_is_used_in_place(decoder):
    assert fetch_backbone(str(decoder)) == decoder


def test_without_config(decoder):
    (decoder / "config.json").unlink()
    refused(decoder, r"contains no config\.json")


def test_an_adapter_folder_is_recognised(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "It contains an adapter")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_config_that_describes_no_model(decoder, text):
    (decoder / "config.json").write_text(text)
    refused(decoder, r"config\.json: (can't be read as JSON|contains no JSON object|has no model)")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_refused(decoder, name):
    (decoder / "model.safetensors").rename(decoder / name)
    refused(decoder, rf"only pickled weights \({name}\).*can run code")


def test_without_weights(decoder):
    (decoder / "model.safetensors").unlink()
    refused(decoder, r"contains no weights \(model\.safetensors\)")


def test_adapter_weights_are_not_backbone_weights(decoder):
    (decoder / "model.safetensors").rename(decoder / "adapter_model.safetensors")
    refused(decoder, "contains no weights")


def test_without_tokenizer(decoder):
    (decoder / "tokenizer.json").unlink()
    refused(decoder, "contains no tokenizer")


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../model.safetensors", "is no safetensors file of its folder"),
        ("model.bin", "is no safetensors file of its folder"),
        ("model-9.safetensors", "which is missing"),
    ],
)
def test_index_of_shards_is_checked(decoder, shard, message):
    (decoder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": shard}}
    (decoder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(decoder, message)


def test_check_returns_the_folder(encoder):
    assert check_folder(encoder) == encoder


@pytest.mark.parametrize("size", [17 * 1024**2, 1 << 40])
def test_a_configuration_over_its_limit_is_not_read_whole(tmp_path, size):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(BackboneError, match="is larger than the limit of 16777216 bytes"):
        read_json(path)


def test_a_configuration_of_endless_depth_is_one_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(BackboneError, match=r"config\.json: can't be read as JSON"):
        read_json(path)
