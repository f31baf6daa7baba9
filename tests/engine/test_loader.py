"""From a reference to a verified artifact, mapped into memory."""

import threading

import pytest
import torch
from adapter_manager_helpers import put

from adapterhub.adapters.artifact import map_artifact, read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.errors import (
    ArtifactError,
    IntegrityError,
    NotFoundError,
    RefError,
    SignatureError,
    TransferError,
)
from adapterhub.hub import loader as loading
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec

KEY = "base_model.model.model.layers.0.q_proj"


def weights(seed, bad=False):
    torch.manual_seed(seed)
    a, b = torch.randn(2, 6), torch.randn(4, 2).to(torch.bfloat16)
    if bad:
        b[0, 0] = float("nan")
    return AdapterWeights(
        LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",)),
        {f"{KEY}.lora_A.weight": a, f"{KEY}.lora_B.weight": b},
    )


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry-home")
    for seed in (0, 1):
        put(registry, tmp_path / f"artifact{seed}", "topic", weights(seed), "sha256:x+none")
    return registry


@pytest.fixture
def loader(registry):
    loader = AdapterLoader(registry)
    yield loader
    loader.close()


@pytest.fixture
def checks(monkeypatch):
    """The versions whose bytes were compared."""
    seen = []
    check = loading.trusted_folder

    def counted(registry, version):
        seen.append(version.version)
        return check(registry, version)

    monkeypatch.setattr(loading, "trusted_folder", counted)
    monkeypatch.setattr(loading, "CLOCK_NS", 0)
    return seen


def test_mapped_tensors_equal_those_that_are_read(registry):
    folder = registry.materialize(registry.resolve("topic@1"))
    mapped, read = map_artifact(folder), read_artifact(folder)
    assert mapped.digest == read.digest
    assert mapped.weights.spec == read.weights.spec
    for key, tensor in read.weights.tensors.items():
        assert torch.equal(mapped.weights.tensors[key], tensor)
        assert mapped.weights.tensors[key].dtype == tensor.dtype
    # one storage, the file's; a tensor of its own has its own
    starts = {t.untyped_storage().data_ptr() for t in mapped.weights.tensors.values()}
    assert len(starts) == 1
    next(iter(mapped.weights.tensors.values())).zero_()
    assert read_artifact(folder).digest == read.digest


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_truncated_file_is_rejected(registry, tmp_path, cut):
    path = tmp_path / "x.safetensors"
    folder = registry.materialize(registry.resolve("topic@1"))
    path.write_bytes((folder / "adapter_model.safetensors").read_bytes()[:cut])
    from adapterhub.adapters.mapped_tensors import map_tensors

    with pytest.raises(ArtifactError, match="safetensors"):
        map_tensors(path)


def test_an_alias_means_what_it_meant_when_it_was_resolved(registry, loader):
    registry.set_alias("topic@1", "prod")
    old = loader.resolve("topic@prod")
    registry.set_alias("topic@2", "prod")
    new = loader.resolve("topic@prod")
    assert loader.fetch(old).result().digest == old == registry.resolve("topic@1").digest
    assert loader.fetch(new).result().digest == new == registry.resolve("topic@2").digest


def test_a_version_removed_after_it_was_resolved_is_still_served(registry, loader):
    digest = loader.resolve("topic@1")
    registry.materialize(registry.resolve("topic@1"))
    registry.remove("topic@1")
    assert loader.fetch(digest).result().digest == digest
    with pytest.raises(NotFoundError):
        loader.resolve("topic@1")
    registry.collect(grace=-1)
    with pytest.raises(NotFoundError):
        loader.fetch(digest).result()


def test_bytes_are_compared_once_and_again_when_a_file_changes(registry, loader, checks):
    version = registry.resolve("topic@1")
    folder = registry.materialize(version)
    digest = loader.resolve("topic@1")
    for _ in range(3):
        loader.fetch(digest).result()
    assert checks == [1]
    path = folder / "adapter_model.safetensors"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    import os

    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match="adapter_model"):
        loader.fetch(digest).result()
    assert checks == [1, 1]


def test_an_error_is_not_cached(registry, loader, tmp_path):
    digest = loader.resolve("topic@1")
    version = registry.resolve("topic@1")
    folder = registry.materialize(version)
    whole = tmp_path / "whole"
    whole.mkdir()
    for path in folder.iterdir():
        (whole / path.name).write_bytes(path.read_bytes())
    path = folder / "README.md"
    path.chmod(0o644)
    path.write_bytes(b"# B card\n")
    with pytest.raises(IntegrityError, match="README"):
        loader.fetch(digest).result()
    registry.put(whole, "topic")
    assert loader.fetch(digest).result().digest == digest


def test_the_signature_rule_is_applied_at_every_fetch(registry, loader):
    digest = loader.resolve("topic@1")
    loader.fetch(digest).result()
    registry.set_requires_signed(True)
    with pytest.raises(SignatureError):
        loader.fetch(digest).result()
    registry.set_requires_signed(False)
    loader.fetch(digest).result()


def test_values_that_are_not_finite_are_rejected(registry, loader, tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="NaN"):
        put(registry, tmp_path / "bad", "bad", weights(3, bad=True), "sha256:x+none")


def test_unknown_references_are_rejected(loader):
    with pytest.raises(NotFoundError, match="topic"):
        loader.resolve("topik")
    with pytest.raises(RefError):
        loader.resolve("Topic@@1")
    with pytest.raises(RefError):
        loader.resolve("hf://one-part")
    with pytest.raises(NotFoundError, match="not resolved"):
        loader.fetch("sha256:00").result()


def test_an_adapter_of_a_hub_is_pulled_once_for_all_requests(registry, loader, monkeypatch):
    pulled, go_on = [], threading.Event()

    def pull(to, address, *, api=None):
        go_on.wait(10)
        pulled.append(str(address))
        if len(pulled) == 1:
            raise TransferError("the Hub can't be reached", place=str(address))
        return type("Pulled", (), {"version": to.resolve("topic@2")})

    monkeypatch.setattr(loading, "pull", pull)
    first, second = (loader.resolve("hf://someone/thing@main") for _ in range(2))
    assert first is second
    go_on.set()
    with pytest.raises(TransferError):
        first.result(10)
    digest = loader.resolve("hf://someone/thing@main").result(10)
    assert digest == registry.resolve("topic@2").digest
    assert loader.fetch(digest).result().digest == digest
    assert pulled == ["hf://someone/thing@main"] * 2
