"""What differs between two versions is named, and by how much."""

import json
from dataclasses import replace

import pytest
import torch
from registry_helpers import MANIFEST, WEIGHTS, lora_config, weights_file
from safetensors.torch import save
from toy_fixtures import command

from adapterhub.adapters.manifest import Metrics
from adapterhub.errors import ArtifactError
from adapterhub.registry.diff import ShapeChange, compare

__all__ = ["command"]


def weights(**tensors):
    return {"adapter_model.safetensors": save({k: torch.tensor(v) for k, v in tensors.items()})}


def test_changes_of_manifest_and_tensors_are_named(artifact):
    old = artifact(
        files=weights(a=[3.0, 4.0], same=[1.0], gone=[1.0], wide=[1.0, 2.0]),
        recipe={"train": {"epochs": 1, "seed": 7}, "old": 1},
        metrics=Metrics(after={"accuracy": 0.5}),
    )
    new = artifact(
        files=weights(a=[3.0, 4.5], same=[1.0], new=[1.0], wide=[1.0]),
        recipe={"train": {"epochs": 2, "seed": 7}, "new": [1]},
        metrics=Metrics(after={"accuracy": 0.75}),
    )
    found = compare(old, new)
    assert sorted((c.what, c.old, c.new) for c in found.changes) == [
        ("metrics.after.accuracy", 0.5, 0.75),
        ("recipe.new", None, [1]),
        ("recipe.old", 1, None),
        ("recipe.train.epochs", 1, 2),
    ]
    assert (found.missing, found.added, found.equal) == (("gone",), ("new",), 1)
    relative = {change.name: change.relative for change in found.tensors}
    assert relative == {"a": pytest.approx(0.1)}
    assert found.reshaped == (ShapeChange("wide", (2,), (1,)),)


def test_equal_artifacts_do_not_differ(artifact):
    folder = artifact(files=weights(a=[1.0]))
    found = compare(folder, folder)
    assert (found.changes, found.tensors, found.equal) == ((), (), 1)


def test_ranks_that_differ_are_shapes_and_a_zero_tensor_has_no_relative_change(
    registry, artifact, monkeypatch, tmp_path, command
):
    zero, one = (weights(b=[value]) for value in (0.0, 1.0))
    found = compare(artifact(files=zero), artifact(files=one))
    assert [(each.name, each.relative) for each in found.tensors] == [("b", None)]
    registry.put(artifact(), "desk")
    changed = {
        WEIGHTS: weights_file("first", rank=3),
        "adapter_config.json": lora_config(r=3),
    }
    registry.put(artifact(files=changed, adapter=replace(MANIFEST.adapter, rank=3)), "desk")
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    shown = command("diff", "desk@1", "desk@2").stdout
    assert "inf" not in shown
    assert "shape [2, 4] to [3, 4]" in shown
    assert len(json.loads(command("diff", "desk@1", "desk@2", "--json").stdout)["reshaped"]) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_each_type_of_number(artifact, dtype):
    old, new = (
        artifact(
            files={"adapter_model.safetensors": save({"a": torch.tensor([v, 1.5], dtype=dtype)})}
        )
        for v in (2.0, -2.0)
    )
    (change,) = compare(old, new).tensors
    assert change.relative == pytest.approx(4.0 / 2.5)


def test_weights_that_are_none_are_told(artifact):
    folder = artifact(files={WEIGHTS: b"no tensors"})
    with pytest.raises(ArtifactError, match="cannot be read"):
        compare(folder, folder)
