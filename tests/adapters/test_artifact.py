"""The artifact folder: equal bytes for equal content, and nothing unexpected is let in."""

import json
import os
import struct
import threading
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.adapters.artifact import (
    digest_of,
    read_artifact,
    read_peft_folder,
    tensor_bytes,
    write_artifact,
)
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.errors import ArtifactError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

SPEC = LoraSpec(rank=2, alpha=4.0, target_modules=("query", "value"))
CONFIG = {
    "peft_type": "LORA",
    "task_type": "TOKEN_CLS",
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "target_modules": ["query", "value"],
    "modules_to_save": ["classifier"],
    "init_lora_weights": True,
}
MANIFEST = Manifest(
    task="token-classification",
    labels=("O", "B-FRUIT"),
    backbone=BackboneRef(name="tiny", fingerprint="sha256:ab"),
    quantization=QuantizationSpec("none", "float32"),
    adapter=SPEC,
    trained_parameters=74,
    backbone_parameters=1000,
    recipe={"epochs": 1},
    data={},
    metrics=Metrics(),
    seed=0,
    libraries={},
)


def example_tensors():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    module = "base_model.model.encoder.layer.0"
    return {
        f"{module}.query.lora_A.weight": random(2, 6),
        f"{module}.query.lora_B.weight": random(4, 2),
        f"{module}.value.lora_A.weight": random(2, 6),
        f"{module}.value.lora_B.weight": random(8, 2),
        "base_model.model.classifier.weight": random(2, 6),
        "base_model.model.classifier.bias": random(2),
    }


TENSORS = example_tensors()
A_KEY = "base_model.model.encoder.layer.0.query.lora_A.weight"


def write(folder, **changes):
    arguments = {
        "tensors": TENSORS,
        "adapter_config": CONFIG,
        "manifest": MANIFEST,
        "card": "# é\n",
        "extra_files": {"loss.svg": b"<svg/>"},
    }
    return write_artifact(folder, **(arguments | changes))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def relist(folder, name, content):
    """Put ``content`` under ``name`` and make the manifest agree."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_artifact_reads_back(folder):
    artifact = read_artifact(folder)
    assert artifact.weights.spec == SPEC
    assert artifact.weights.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(artifact.weights.tensors[key], TENSORS[key]) for key in TENSORS)
    assert artifact.adapter_config == CONFIG
    assert replace(artifact.manifest, files={}) == MANIFEST
    assert set(artifact.manifest.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.svg",
    }


def test_digest_names_the_manifest_and_thereby_every_file(tmp_path):
    digest = write(tmp_path / "a")
    assert digest == "sha256:" + sha256((tmp_path / "a" / "manifest.json").read_bytes()).hexdigest()
    assert digest == read_artifact(tmp_path / "a").digest
    changed = {key: tensor.clone() for key, tensor in TENSORS.items()}
    changed[A_KEY][0, 0] += 1e-3
    assert write(tmp_path / "b", tensors=changed) != digest
    assert write(tmp_path / "c", card="# e\n") != digest
    assert write(tmp_path / "d", extra_files={}) != digest


def test_tensors_of_the_artifact_are_read_only_as_a_mapping(folder):
    weights = read_artifact(folder).weights
    with pytest.raises(TypeError):
        weights.tensors["x"] = torch.zeros(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(order=st.permutations(sorted(TENSORS)), config=st.permutations(sorted(CONFIG)))
def test_order_does_not_change_a_byte(tmp_path_factory, order, config):
    parent = tmp_path_factory.mktemp("order")
    first = write(parent / "a")
    turned = write(
        parent / "b",
        tensors={key: TENSORS[key] for key in order},
        adapter_config={key: CONFIG[key] for key in config},
    )
    assert turned == first
    assert contents(parent / "a") == contents(parent / "b")


def test_layout_in_memory_does_not_change_a_byte():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    shared = {"a": base.T, "b": base[:, 1:], "c": base, "d": base, "e": base[1:]}
    apart = {key: torch.tensor(tensor.tolist()) for key, tensor in shared.items()}
    assert tensor_bytes(shared) == tensor_bytes(apart)


def test_file_says_that_it_is_of_torch(folder):
    content = (folder / "adapter_model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert header["__metadata__"] == {"format": "pt"}


def test_occupied_folder_is_left_alone(folder):
    before = contents(folder)
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        write(folder)
    assert contents(folder) == before


def test_empty_folder_is_filled_and_parents_are_made(tmp_path):
    (tmp_path / "x" / "empty").mkdir(parents=True)
    write(tmp_path / "x" / "empty")
    write(tmp_path / "y" / "z" / "new")
    assert contents(tmp_path / "x" / "empty") == contents(tmp_path / "y" / "z" / "new")


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
        write(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_one_wins_whole(tmp_path):
    refused = []
    start = threading.Barrier(4)

    def attempt(card):
        start.wait()
        try:
            write(tmp_path / "adapter", card=card)
        except ArtifactError as error:
            refused.append(error)

    threads = [threading.Thread(target=attempt, args=(f"# {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    read_artifact(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["weights.bin", "x.pt", "../x", "README.md", "manifest.json"])
def test_extra_file_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(ArtifactError):
        write(tmp_path / "adapter", extra_files={name: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "x.PT", "a.ckpt"])
def test_pickle_in_the_folder_is_refused(folder, name):
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"is a pickle.*Convert its tensors with safetensors"):
        read_artifact(folder)


def test_pickle_under_another_name_is_not_executed(folder):
    relist(folder, "adapter_model.safetensors", b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ArtifactError, match="is not a safetensors file"):
        read_artifact(folder)


def test_link_is_refused(folder, tmp_path):
    outside = tmp_path / "outside"
    (folder / "README.md").rename(outside)
    (folder / "README.md").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"'README\.md' is a link"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_link_in_a_plain_peft_folder_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="is a link"):
        read_peft_folder(folder)


def test_folder_inside_is_refused(folder):
    (folder / "more").mkdir()
    with pytest.raises(ArtifactError, match="'more' is not a plain file"):
        read_artifact(folder)


def test_file_that_is_not_listed_is_refused(folder):
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ArtifactError, match=r"'notes\.txt' is not listed"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["README.md", "loss.svg", "adapter_model.safetensors"])
def test_file_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"'{name}' is listed and missing"):
        read_artifact(folder)


def test_manifest_that_does_not_list_the_tensors_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["files"]["adapter_model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"does not list 'adapter_model\.safetensors'"):
        read_artifact(folder)


def test_path_out_of_the_folder_in_the_manifest_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["../x"] = manifest["files"]["README.md"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"'\.\./x' cannot be a file of an artifact"):
        read_artifact(folder)


@pytest.mark.parametrize(
    "name", ["README.md", "loss.svg", "adapter_config.json", "adapter_model.safetensors"]
)
def test_flipped_byte_is_found_in_every_file(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: has sha256 \w+, manifest\.json says"):
        read_artifact(folder)


def test_verify_off_skips_digests_and_nothing_else(folder):
    (folder / "README.md").write_bytes(b"# E\n\n")
    read_artifact(folder, verify=False)
    (folder / "README.md").write_bytes(b"# longer than before")
    with pytest.raises(ArtifactError, match=r"README\.md: has 20 bytes, manifest\.json says 5"):
        read_artifact(folder, verify=False)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_truncated_tensors_are_refused(folder, cut):
    content = (folder / "adapter_model.safetensors").read_bytes()[:cut]
    relist(folder, "adapter_model.safetensors", content)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: is not a safetensors"):
        read_artifact(folder)


def test_artifact_over_the_limit_is_not_read(folder):
    size = sum(len(content) for content in contents(folder).values())
    read_artifact(folder, max_bytes=size)
    with pytest.raises(ArtifactError, match=f"holds {size} bytes, the limit is {size - 1}"):
        read_artifact(folder, max_bytes=size - 1)


def test_folder_that_is_no_artifact_says_so(tmp_path, folder):
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        read_artifact(tmp_path / "nothing")
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        read_artifact(folder)


def changed(**changes):
    return {key: value for key, value in (TENSORS | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(**{A_KEY: torch.zeros(3, 6)}), r"query: A has shape \[3, 6\].*says rank 2"),
        (changed(**{A_KEY: torch.zeros(12)}), r"query: A has shape \[12\]"),
        (changed(**{A_KEY: None}), r"query: has lora_B\.weight, the configuration requires"),
        (changed(**{A_KEY: torch.full((2, 6), torch.nan)}), r"12 of 12 values are NaN"),
        (changed(**{A_KEY: torch.zeros(2, 6, dtype=torch.int8)}), r"has type int8"),
        (changed(surprise=torch.zeros(1)), r"surprise: does not belong"),
        (changed(**{"classifier.weight": torch.zeros(1)}), r"classifier\.weight: does not belong"),
        (
            changed(**{"base_model.model.a.key.lora_A.weight": torch.zeros(2, 6)}),
            r"key\.lora_A\.weight: does not belong",
        ),
        (
            changed(**{"base_model.model.a.query.lora_magnitude_vector": torch.zeros(4)}),
            r"a\.query: has lora_magnitude_vector",
        ),
        (
            {key: tensor for key, tensor in TENSORS.items() if ".value." not in key},
            r"has no tensor for the target module 'value'",
        ),
    ],
)
def test_tensors_that_disagree_with_the_configuration_are_named(tmp_path, folder, tensors, message):
    with pytest.raises(ArtifactError, match=message):
        write(tmp_path / "new", tensors=tensors)
    assert not (tmp_path / "new").exists()
    relist(folder, "adapter_model.safetensors", tensor_bytes(tensors))
    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder)


def test_configuration_that_disagrees_with_the_manifest_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: says .*alpha=8"):
        write(tmp_path / "a", adapter_config=CONFIG | {"lora_alpha": 8})
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: says"):
        write(tmp_path / "b", manifest=replace(MANIFEST, adapter=PrefixSpec(2)))
    narrow = replace(SPEC, target_modules=("query",))
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: says"):
        write(tmp_path / "c", manifest=replace(MANIFEST, adapter=narrow))


def test_manifest_may_keep_all_linear_as_it_was_asked(tmp_path):
    requested = replace(SPEC, target_modules=("all-linear",))
    write(tmp_path / "a", manifest=replace(MANIFEST, adapter=requested))
    artifact = read_artifact(tmp_path / "a")
    assert artifact.manifest.adapter == requested
    assert artifact.weights.spec == SPEC


def test_prefix_of_another_length_is_refused(tmp_path):
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}
    arguments = {"adapter_config": config, "manifest": replace(MANIFEST, adapter=PrefixSpec(3))}
    write(tmp_path / "a", tensors={"prompt_embeddings": torch.zeros(3, 8)}, **arguments)
    with pytest.raises(ArtifactError, match=r"has shape \[2, 8\], the configuration says 3"):
        write(tmp_path / "b", tensors={"prompt_embeddings": torch.zeros(2, 8)}, **arguments)
    with pytest.raises(ArtifactError, match="has no tensor 'prompt_embeddings'"):
        write(tmp_path / "c", tensors={}, **arguments)


def test_norm_layers_named_in_the_configuration_belong_to_it(tmp_path):
    norm = "base_model.model.encoder.layer.0.norm.weight"
    with pytest.raises(ArtifactError, match=r"norm\.weight: does not belong"):
        write(tmp_path / "a", tensors=changed(**{norm: torch.ones(6)}))
    saved = CONFIG | {"modules_to_save": ["classifier", "norm"]}
    write(tmp_path / "b", tensors=changed(**{norm: torch.ones(6)}), adapter_config=saved)
    assert norm in read_artifact(tmp_path / "b").weights.tensors


def test_digest_of_known_bytes():
    assert digest_of(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
