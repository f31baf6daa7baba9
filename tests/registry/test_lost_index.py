"""A lost, emptied, replaced or damaged index frees nothing, and is made again."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from registry_helpers import bundle
from toy_fixtures import command

from adapterhub.adapters.manifest import Metrics
from adapterhub.errors import RegistryError
from adapterhub.registry import Registry
from adapterhub.registry.aliases import AliasRule, StoredEvaluation
from adapterhub.registry.database import Database
from adapterhub.registry.journal import Journal
from adapterhub.registry.query import Query
from adapterhub.registry.rebuild import rebuild
from adapterhub.registry.schema import SCHEMA_CHANGES

__all__ = ["command"]

REBUILD = "adapterhub registry rebuild"


@pytest.fixture
def filled(registry, artifact):
    """Return a registry with a bit of everything that only its index knows."""
    first = registry.put(artifact("first"), "desk", info={"seconds": 1.5}, tags=["trial"])
    registry.put(artifact("second", metrics=Metrics(after={"f1": 0.5})), "desk", tags=["best"])
    registry.put(artifact("second"), "team/copy", signatures=[bundle("ada")])
    registry.put(artifact("gone"), "gone")
    registry.remove("gone")
    registry.set_alias("desk@1", "prod", why="first")
    registry.set_alias("desk@2", "prod", why="bétter")
    registry.set_alias("desk@1", "stage")
    registry.remove_alias("desk", "stage")
    registry.tag("desk@1", remove=["trial"], add=["lang:en"])
    registry.set_rule("desk", "prod", AliasRule(metric="f1", at_least=0.5))
    registry.record_evaluation(
        StoredEvaluation(digest=first.digest, data="x", data_fingerprint="y", metrics={"f1": 1.0})
    )
    registry.set_requires_signed(True)
    return registry


def known(registry):
    """Return all that a registry knows."""
    versions = registry.list()
    return {
        "versions": versions,
        "found": registry.list(Query(text="stone")),
        "numbers": registry.last_numbers(),
        "history": registry.history(),
        "rule": registry.rule("desk", "prod"),
        "evaluations": [registry.evaluations(each) for each in versions],
        "signatures": [registry.stored_signatures(each.digest) for each in versions],
        "signed": registry.requires_signed(),
    }


def blobs(registry):
    return {path.name for path in (registry.folder / "blobs").rglob("*") if path.is_file()}


def index_files(registry):
    return list(registry.folder.glob("index.sqlite3*"))


def delete(registry, _copy):
    for path in index_files(registry):
        path.unlink()


def delete_all_but_the_wal(registry, _copy):
    with closing(sqlite3.connect(registry.folder / "index.sqlite3")) as db:
        db.execute("SELECT * FROM names").fetchall()
        wal = registry.folder / "index.sqlite3-wal"
        content = wal.read_bytes() if wal.exists() else b""
    delete(registry, _copy)
    wal.write_bytes(content or b"\x37\x7f\x06\x82" + bytes(100))


def empty(registry, _copy):
    delete(registry, _copy)
    (registry.folder / "index.sqlite3").touch()


def replace_by_older(registry, copy):
    delete(registry, copy)
    shutil.copy(copy, registry.folder / "index.sqlite3")


def damage(registry, _copy):
    path = registry.folder / "index.sqlite3"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def garble(registry, _copy):
    (registry.folder / "index.sqlite3").write_bytes(b"this is no database" * 300)


LOSSES = [delete, delete_all_but_the_wal, empty, replace_by_older, damage, garble]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_index_frees_nothing_and_is_made_again(filled, tmp_path, artifact, lose):
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(filled.folder / "index.sqlite3", copy)
    filled.set_rule("desk", "stage", AliasRule(metric="f1", at_least=0.1))
    before, kept = known(filled), blobs(filled)
    lose(filled, copy)
    for use in (
        lambda: Registry(tmp_path / "home").collect(grace=0),
        lambda: Registry(tmp_path / "home").put(artifact("third"), "desk"),
        lambda: Registry(tmp_path / "home").list(),
        lambda: Registry(tmp_path / "home").requires_signed(),
        lambda: Registry(tmp_path / "home").remove("desk@1"),
    ):
        with pytest.raises(RegistryError) as caught:
            use()
        assert REBUILD in str(caught.value)
    assert blobs(filled) == kept
    made = rebuild(tmp_path / "home")
    assert (made.versions, made.aliases) == (3, 1)
    assert (made.recovered, made.missing, made.damaged_lines) == ((), (), 0)
    again = Registry(tmp_path / "home")
    assert known(again) == before
    assert again.verify() == ()
    assert blobs(again) == kept
    assert again.put(artifact("third"), "desk").version == 3
    assert again.put(artifact("gone again"), "gone").version == 2
    again.collect(grace=0)
    assert again.verify() == ()
    with pytest.raises(RegistryError, match="is intact"):
        rebuild(tmp_path / "home")


@pytest.mark.parametrize("lose", LOSSES[:4])
def test_verify_and_gc_of_a_lost_index_fail(filled, tmp_path, monkeypatch, command, lose):
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(filled.folder / "index.sqlite3", copy)
    filled.set_requires_signed(False)
    kept = blobs(filled)
    lose(filled, copy)
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    shown = command("verify")
    assert shown.exit_code == 5
    assert REBUILD in shown.stdout
    freed = command("gc", "--grace-hours", "0")
    assert freed.exit_code == 1
    assert REBUILD in freed.stderr_bytes.decode()
    assert blobs(filled) == kept
    made = command("registry", "rebuild", "--json")
    assert json.loads(made.stdout)["versions"] == 3
    assert command("verify").exit_code == 0


def test_without_index_and_journal_names_are_those_of_the_recipes(
    registry, artifact, tmp_path, command, monkeypatch
):
    registry.put(artifact("first", recipe={"name": "desk"}), "desk")
    registry.put(artifact("other"), "other")
    delete(registry, None)
    (registry.folder / "journal.log").unlink()
    with pytest.raises(RegistryError, match="is empty, and there are artifacts beside it"):
        Registry(tmp_path / "home").collect(grace=0)
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    assert "tagged 'recovered': desk@1, recovered-" in command("registry", "rebuild").stdout
    again = Registry(tmp_path / "home")
    assert [version.tags for version in again.list()] == [("recovered",), ("recovered",)]
    assert again.collect(grace=0) == 0
    assert again.verify() == ()


def test_an_artifact_whose_files_are_gone_is_named(filled, tmp_path, artifact):
    version = filled.resolve("desk@1")
    filled._blobs.path(version.digest.removeprefix("sha256:")).unlink()
    delete(filled, None)
    made = rebuild(tmp_path / "home")
    assert (made.versions, made.missing) == (2, ("desk@1",))
    assert Registry(tmp_path / "home").put(artifact("first"), "desk").version == 3


def test_the_journal_of_a_killed_process_is_completed(registry, artifact, tmp_path, monkeypatch):
    registry.put(artifact("first"), "desk")
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "append", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        registry.set_alias("desk", "prod")
    path = registry.folder / "journal.log"
    path.write_bytes(path.read_bytes() + b"12345678 999 {torn")
    again = Registry(tmp_path / "home")
    again.tag("desk", add=["x"])
    delete(again, None)
    assert rebuild(tmp_path / "home").damaged_lines == 0
    assert Registry(tmp_path / "home").resolve("desk@prod").tags == ("x",)


@pytest.mark.parametrize("content", [None, b"", b"no journal\n", b"\xff" * 100])
def test_a_lost_journal_is_written_anew(filled, tmp_path, content):
    before = known(filled)
    path = filled.folder / "journal.log"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    delete(Registry(tmp_path / "home"), None)
    rebuild(tmp_path / "home")
    assert known(Registry(tmp_path / "home")) == before


def test_an_older_journal_is_completed(filled, tmp_path, artifact):
    path = filled.folder / "journal.log"
    older = path.read_bytes()
    filled.put(artifact("third"), "desk")
    filled.set_alias("desk@3", "prod")
    path.write_bytes(older)
    filled.tag("desk@3", add=["x"])
    before = known(filled)
    delete(filled, None)
    rebuild(tmp_path / "home")
    assert known(Registry(tmp_path / "home")) == before


def test_a_registry_of_an_earlier_version_gets_a_journal(filled, tmp_path):
    before = known(filled)
    with closing(sqlite3.connect(filled.folder / "index.sqlite3")) as db:
        db.execute("DROP TABLE journal")
        db.execute("DELETE FROM sqlite_sequence")
        db.execute("PRAGMA user_version = 3")
        db.commit()
    (filled.folder / "journal.log").unlink()
    assert known(Registry(tmp_path / "home")) == before
    delete(filled, None)
    rebuild(tmp_path / "home")
    assert known(Registry(tmp_path / "home")) == before


def test_a_killed_rebuild_is_run_again(filled, tmp_path, monkeypatch):
    before = known(filled)
    delete(filled, None)
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(RegistryError):
            rebuild(tmp_path / "home")
    assert known(Registry(tmp_path / "home")) == before


def test_files_of_a_killed_first_put_are_no_loss(registry, artifact, tmp_path):
    def hook(step):
        if step == "placed manifest.json":
            raise KeyboardInterrupt

    killed = Registry(tmp_path / "home", on_step=hook)
    killed._storage._sweep_after_failure = lambda _: None
    with pytest.raises(KeyboardInterrupt):
        killed.put(artifact("first"), "desk")
    again = Registry(tmp_path / "home")
    assert again.verify() == ()
    assert again.put(artifact("second"), "desk").version == 1


def test_the_journal_follows_every_table_that_artifacts_do_not_make(registry):
    from adapterhub.registry.journal_schema import JOURNALED

    made_of_artifacts = {"artifacts", "artifact_files", "artifact_metrics", "texts"}
    with Database(registry.folder / "index.sqlite3", SCHEMA_CHANGES).reading() as db:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = {row["name"] for row in db.execute(query)}
        for table, journaled in JOURNALED.items():
            columns = {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}
            assert columns == {*journaled.key, *journaled.columns}
    own = {name for name in tables if not name.startswith(("sqlite_", "words"))}
    assert own - made_of_artifacts - {"journal"} == set(JOURNALED)
