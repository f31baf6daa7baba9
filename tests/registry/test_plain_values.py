"""Values that no terminal, file or other program can hold are neither stored nor listed."""

import json
import sqlite3

import pytest
from toy_fixtures import command

from adapterhub.adapters.manifest import Metrics
from adapterhub.adapters.strict_json import check_plain
from adapterhub.errors import ArtifactError, RegistryError
from adapterhub.registry.aliases import AliasRule, StoredEvaluation
from adapterhub.registry.query import Query

__all__ = ["command"]

HALF = "\ud800"


def edited(folder, **changes):
    """Change the manifest of an artifact folder, without its checks."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"labels": ["a", HALF]}, "labels[1]"),
        ({"labels": ["a", "\x1b]0;x\x07"]}, "labels[1]"),
        ({"task": "a\0b"}, "task"),
        ({"metrics": {"before": {}, "after": {"accuracy": 10**400}}}, "metrics.after.accuracy"),
        ({"trained_parameters": 2**63}, "trained_parameters"),
        ({"recipe": {HALF: 1}}, "recipe"),
    ],
)
def test_a_manifest_with_such_a_value_is_refused(registry, artifact, changes, place):
    with pytest.raises(ArtifactError) as caught:
        registry.put(edited(artifact(), **changes), "topics")
    assert caught.value.place == f"manifest.json: {place}"
    assert registry.list() == ()


def test_labels_and_metadata_of_the_api_are_checked(registry, artifact):
    for info in ({"a": HALF}, {"a": [float("nan")]}, {"\x1b": 1}):
        with pytest.raises(ArtifactError, match="info of topics"):
            registry.put(artifact(), "topics", info=info)
    version = registry.put(artifact(), "topics")
    with pytest.raises(ArtifactError, match="why: has a lone surrogate"):
        registry.set_alias(version.ref, "prod", why=HALF)
    with pytest.raises(ArtifactError, match=r"rule of topics@prod: data"):
        registry.set_rule("topics", "prod", AliasRule(metric="f1", at_least=1.0, data=HALF))
    with pytest.raises(ArtifactError, match="data: has a lone surrogate"):
        registry.record_evaluation(
            StoredEvaluation(digest=version.digest, data=HALF, data_fingerprint="x", metrics={})
        )
    with pytest.raises(RegistryError, match="cannot hold a value"):
        registry.list(Query(task=HALF))


def test_a_user_name_of_other_bytes_is_recorded(registry, artifact, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_USER", "a\udcff")
    registry.put(artifact(), "topics")
    assert registry.set_alias("topics", "prod").who == "a\ufffd"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("labels", r'["ok", "\ud800"]'),
        ("metrics", '{"before": {}, "after": {"accuracy": 1' + "0" * 400 + ', "f1": 0.5}}'),
        ("metrics", '{"before": {"f1": Infinity}, "after": {"f1": 0.5, "x": 1e999}}'),
        ("data", r'{"train": "\u001b[2J"}'),
    ],
)
def test_an_index_that_holds_such_a_value_is_listed(
    registry, artifact, tmp_path, monkeypatch, command, column, text
):
    registry.put(artifact("other"), "other")
    registry.put(artifact(metrics=Metrics(after={"f1": 0.5})), "topics")
    with sqlite3.connect(registry.folder / "index.sqlite3") as db:
        db.execute(f"UPDATE artifacts SET {column} = ? WHERE rank = 2", (text,))
    db.close()
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    listed = json.loads(command("list", "--json").stdout)
    assert [version["name"] for version in listed] == ["other", "topics"]
    assert "topics@1" in command("list").stdout
    assert [version.metrics["after"].get("f1") for version in registry.list()][1] == 0.5
    check_plain(listed, "list")
