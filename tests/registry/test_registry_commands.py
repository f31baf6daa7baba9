"""The registry from the command line, as a person and as a program use it."""

import json

import pytest
from registry_helpers import make_artifact
from toy_fixtures import command

from adapterhub.adapters.manifest import Metrics
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
    assert "no adapter matches all filters" in command("list", "--task", "dialogue").stdout
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
        (("alias", "set", "topics@1", "latest"), b"Use another alias"),
        (("alias", "set", "topics@9", "prod"), b"no such version"),
        (("tag", "topics", "No Tag"), b"is not a tag"),
    ):
        result = command(*arguments)
        assert result.exit_code not in (0, 1)
        assert said in result.stderr_bytes, arguments


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
    assert store.blobs.checked(digest).read_bytes() == content


def leaves(group, words=()):
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from leaves(found, (*words, name))
        else:
            yield " ".join((*words, name)), found


def test_every_command_of_the_registry_speaks_json():
    from typer.main import get_command

    from adapterhub.cli.main import build_app

    commands = dict(leaves(get_command(build_app())))
    silent = {
        name
        for name, found in commands.items()
        if not any("--json" in parameter.opts for parameter in found.params)
    }
    expected = "list show diff log tag rollback export import rm gc promote push pull sign verify"
    assert not silent & {*expected.split(), "alias set", "alias rm", "alias rule", "key rm"}
    # what goes on until it is stopped has no document to give
    assert "hub serve" in silent


def test_removing_as_a_program_does(command, filled):
    refused = command("rm", "topics@1", "--json")
    assert refused.exit_code == 1
    assert b"Confirm with --yes" in refused.stderr_bytes
    removed = json.loads(command("rm", "topics@1", "--yes", "--json").stdout)
    assert removed["ref"] == "topics@1"
    assert command("show", "topics@1").exit_code == 4


def test_show_tells_what_came_to_a_version_later(command, filled):
    from registry_helpers import bundle

    from adapterhub.registry.aliases import StoredEvaluation

    version = filled.resolve("topics@2")
    filled.add_signature("topics@2", bundle("ada"))
    filled.record_evaluation(
        StoredEvaluation(
            digest=version.digest,
            data="checks.jsonl",
            data_fingerprint="sha256:0",
            metrics={"accuracy": 0.8125},
        )
    )
    shown = command("show", "topics@2").stdout
    (key,) = (stored.key for stored in filled.stored_signatures(version.digest))
    for words in ("checks.jsonl", "accuracy 0.8125", f"signed by  {key[:16]}"):
        assert " ".join(words.split()) in " ".join(shown.split())
    document = json.loads(command("show", "topics@2", "--json").stdout)
    assert document["evaluations"][0]["metrics"] == {"accuracy": 0.8125}
    assert document["signed_by"] == [key]
    assert document["unknown"] == []


def test_show_tells_where_a_version_came_from_and_what_nobody_recorded(command, filled, tmp_path):
    hub = {"repository": "team/plain", "revision": "a" * 40, "endpoint": "http://hub.example"}
    folder = make_artifact(tmp_path / "theirs", "theirs", metrics=Metrics(), unknown=("metrics",))
    filled.put(folder, "theirs", info={"hub": hub})
    shown = " ".join(command("show", "theirs").stdout.split())
    assert f"pulled from hf://team/plain@{'a' * 40} of http://hub.example" in shown
    assert "not recorded metrics" in shown
    assert json.loads(command("show", "theirs", "--json").stdout)["unknown"] == ["metrics"]
