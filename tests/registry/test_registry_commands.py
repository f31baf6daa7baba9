"""The registry from the command line, as a person and as a program use it."""

import json

import pytest
from registry_helpers import make_artifact
from toy_fixtures import command

from adapterhub.manifest import Metrics
from adapterhub.registry import Registry

__all__ = ["command"]


@pytest.fixture
def filled(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERHUB_USER", "ada")
    registry = Registry()
    for number, accuracy in enumerate((0.5, 0.8, 0.7)):
        folder = make_artifact(
            tmp_path / str(number),
            f"weights {number}",
            metrics=Metrics(after={"accuracy": accuracy}),
        )
        registry.put(folder, "topics")
    return registry


def test_a_release_and_its_way_back(command, filled):
    assert "points to version 2" in command("alias", "set", "topics@2", "prod").stdout
    assert "already" in command("alias", "set", "topics@2", "prod").stdout
    move = json.loads(
        command("alias", "set", "topics@3", "prod", "--why", "newer", "--json").stdout
    )
    assert (move["from_version"], move["to_version"], move["who"]) == (2, 3, "ada")
    assert "topics@3  prod" in command("list").stdout
    assert "(before: 3)" in command("rollback", "topics@prod", "--why", "worse").stdout
    log = json.loads(command("log", "topics@prod", "--json").stdout)
    assert [(m["to_version"], m["why"]) for m in log] == [(2, "worse"), (3, "newer"), (2, "")]
    shown = command("log").stdout.splitlines()
    assert len(shown) == 4
    assert "worse" in shown[1]
    assert "which pointed to version 2" in command("alias", "rm", "topics@prod").stdout
    assert "removed" in command("log", "topics").stdout


def test_lists_are_filtered_and_paged(command, filled):
    assert command("tag", "topics@1", "lang:en", "old").stdout == "topics@1: lang:en, old\n"
    assert command("tag", "topics@1", "old", "--remove").stdout == "topics@1: lang:en\n"

    def refs(*arguments):
        return [v["ref"] for v in json.loads(command("list", *arguments, "--json").stdout)]

    assert refs("--tag", "lang:en") == ["topics@1"]
    assert refs("--metric", "accuracy=0.7") == ["topics@2", "topics@3"]
    assert refs("--text", "stone", "--limit", "2") == ["topics@1", "topics@2"]
    assert refs("--after", "topics@2") == ["topics@3"]
    assert "more: --after topics@2" in command("list", "--limit", "2").stdout
    assert "no adapter passes all filters" in command("list", "--task", "dialogue").stdout
    for wrong in (("--metric", "accuracy"), ("--after", "topics")):
        assert command("list", *wrong).exit_code == 2


def test_what_is_removed_is_freed_after_its_time(command, filled):
    kept = command("rm", "topics@1", "--yes")
    assert "until: adapterhub gc" in kept.stdout
    assert json.loads(command("gc", "--json").stdout) == {"freed_bytes": 0}
    assert json.loads(command("gc", "--grace-hours", "0", "--json").stdout)["freed_bytes"] > 0
    assert json.loads(command("verify", "--json").stdout) == []
    command("alias", "set", "topics@2", "prod")
    refused = command("rm", "topics@2", "--yes")
    assert refused.exit_code == 1
    assert b"adapterhub alias rm topics@prod" in refused.stderr_bytes


def test_damage_is_listed_and_ends_with_a_code(command, filled):
    blob = max((filled.folder / "blobs").rglob("*"), key=lambda path: path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    plain, listed = command("verify"), command("verify", "--json")
    assert plain.exit_code == listed.exit_code == 5
    assert json.loads(listed.stdout)[0]["problem"] in plain.stdout
    assert json.loads(listed.stdout)[0]["refs"]


def test_faults_say_what_to_do(command, filled):
    for arguments, said in (
        (("rollback", "topics"), b"Write topics@prod"),
        (("rollback", "topics@prod"), b"no alias 'prod'"),
        (("alias", "set", "topics@1", "latest"), b"Use another word"),
        (("alias", "set", "topics@9", "prod"), b"no such version"),
        (("tag", "topics", "No Tag"), b"is no tag"),
    ):
        result = command(*arguments)
        assert result.exit_code not in (0, 1)
        assert said in result.stderr_bytes, arguments


def test_tokens_are_shown_once_and_listed_by_what_they_allow(command, filled):
    made = json.loads(command("hub", "token", "add", "ada", "read:*", "write:ada", "--json").stdout)
    listed = command("hub", "token", "list", "--json")
    (info,) = json.loads(listed.stdout)
    assert (info["user"], info["scopes"]) == ("ada", ["read:*", "write:ada"])
    assert made["token"] not in listed.stdout
    stored = (filled.folder / "hub.sqlite3").read_bytes()
    assert made["token"].encode() not in stored
    assert command("hub", "token", "rm", info["id"]).exit_code == 0
    assert json.loads(command("hub", "token", "list", "--json").stdout) == []
    assert b"is no scope" in command("hub", "token", "add", "ada", "all").stderr_bytes


def test_collecting_spares_what_was_pushed_to_the_endpoint(command, filled):
    from hashlib import sha256

    from adapterhub.hub.server import RepoStore
    from adapterhub.hub.server.blobstore import Staged

    store = RepoStore()
    repository = store.create("ada/notes", private=False, author="ada")
    content = b"pushed and not committed yet"
    digest = sha256(content).hexdigest()
    with store.staging() as folder:
        (folder / "file").write_bytes(content)
        store.add_uploads(repository, [Staged(folder / "file", digest, len(content))])
    command("gc", "--grace-hours", "0")
    assert store.blob(digest).read_bytes() == content
