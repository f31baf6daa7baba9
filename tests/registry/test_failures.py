"""Kills at every step, full disks and read-only folders: nothing half-written, clear errors."""

import errno
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import registry_helpers
from registry_helpers import WEIGHTS, text_of

from adapterhub.errors import RegistryError
from adapterhub.registry import Registry
from adapterhub.registry.database import Database, SchemaChange
from adapterhub.registry.schema import SCHEMA_CHANGES

PUT_STEPS = [
    "checked",
    "staged README.md",
    "staged adapter_config.json",
    f"staged {WEIGHTS}",
    "staged manifest.json",
    "locked",
    "placed README.md",
    "placed adapter_config.json",
    f"placed {WEIGHTS}",
    "placed manifest.json",
    "listed",
    "committed",
]
REMOVE_STEPS = ["unlisted", "removed"]
COLLECT_STEPS = ["dropped checkout", "deleted blob"]
ORDINARY_USER = 65534


def run_and_kill(action, root, step, argument):
    command = [sys.executable, registry_helpers.__file__, action, root, step, argument]
    return subprocess.run([str(word) for word in command], check=False).returncode


def blobs(registry):
    return sorted(path.name for path in (registry.folder / "blobs").rglob("*") if path.is_file())


def test_the_steps_are_those_that_are_tested(tmp_path, artifact):
    steps = []
    registry = Registry(tmp_path / "home", on_step=steps.append)
    version = registry.put(artifact(), "topics")
    assert steps == PUT_STEPS
    steps.clear()
    registry.materialize(version)
    assert steps == ["checked out"]
    steps.clear()
    registry.remove("topics")
    assert steps == REMOVE_STEPS
    steps.clear()
    registry.collect(grace=0)
    assert list(dict.fromkeys(steps)) == COLLECT_STEPS


@pytest.mark.parametrize("step", PUT_STEPS)
def test_killed_in_put(registry, artifact, tmp_path, step):
    held = registry.put(artifact("first"), "topics")
    folder = artifact("second")
    assert run_and_kill("put", tmp_path / "home", step, folder) == 77
    after = Registry(tmp_path / "home")
    expected = [1, 2] if step == "committed" else [1]
    assert [version.version for version in after.versions("topics")] == expected
    assert after.resolve("topics@1") == held
    assert after.verify() == ()
    assert after.put(folder, "topics").version == 2
    assert text_of(after.materialize(after.resolve("topics@2")) / WEIGHTS) == "second"


@pytest.mark.parametrize("step", REMOVE_STEPS)
def test_killed_in_remove(registry, artifact, tmp_path, step):
    folder = artifact("second")
    registry.put(artifact("first"), "topics")
    before = blobs(registry)
    registry.materialize(registry.put(folder, "topics"))
    assert run_and_kill("remove", tmp_path / "home", step, "topics@2") == 77
    after = Registry(tmp_path / "home")
    expected = [1, 2] if step == "unlisted" else [1]
    assert [version.version for version in after.versions("topics")] == expected
    assert after.verify() == ()
    if step != "unlisted":
        after.collect(grace=0)
        assert blobs(after) == before
        assert after.put(folder, "topics").version == 3
    path = after.materialize(after.resolve("topics"))
    assert text_of(path / WEIGHTS) == "second"


@pytest.mark.parametrize("step", COLLECT_STEPS)
def test_killed_in_collect(registry, artifact, tmp_path, step):
    held = registry.put(artifact("first"), "topics")
    before = blobs(registry)
    folder = artifact("second")
    registry.materialize(registry.put(folder, "topics"))
    registry.remove("topics@2")
    assert run_and_kill("collect", tmp_path / "home", step, "0") == 77
    after = Registry(tmp_path / "home")
    assert after.verify() == ()
    assert text_of(after.materialize(held) / WEIGHTS) == "first"
    again = after.put(folder, "topics")
    assert text_of(after.materialize(again) / WEIGHTS) == "second"
    after.remove(again.ref)
    after.collect(grace=0)
    assert blobs(after) == before


def test_killed_while_checking_out(registry, artifact, tmp_path):
    version = registry.put(artifact(), "topics")
    assert run_and_kill("materialize", tmp_path / "home", "checked out", "topics") == 77
    assert text_of(registry.materialize(version) / WEIGHTS) == "first"


def test_collect_frees_what_a_kill_left_and_nothing_else(registry, artifact, tmp_path):
    version = registry.put(artifact("first"), "topics")
    before = blobs(registry)
    run_and_kill("put", tmp_path / "home", "listed", artifact("second"))
    left = list((registry.folder / "staging").iterdir())
    assert left
    assert len(blobs(registry)) == len(before) + 2
    # blobs this young may belong to a process at work
    assert registry.collect() == 0
    assert registry.collect(grace=0) > 0
    assert blobs(registry) == before
    # a staging folder this young may belong to a process at work
    assert list((registry.folder / "staging").iterdir()) == left
    os.utime(left[0], (0, 0))
    registry.collect()
    assert list((registry.folder / "staging").iterdir()) == []
    assert text_of(registry.materialize(version) / WEIGHTS) == "first"


@pytest.mark.parametrize("step", PUT_STEPS[:-1])
def test_disk_full_at_any_step_changes_nothing(registry, artifact, tmp_path, step):
    registry.put(artifact("first"), "topics")
    before = blobs(registry)

    def hook(name):
        if name == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RegistryError, match=r"No space left.*Free some space"):
        Registry(tmp_path / "home", on_step=hook).put(artifact("second"), "topics")
    assert [version.version for version in registry.list()] == [1]
    assert blobs(registry) == before
    assert list((registry.folder / "staging").iterdir()) == []


def test_a_file_that_does_not_fit_is_refused(registry, artifact):
    folder = artifact("x" * 3_000_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(RegistryError, match=rf"{WEIGHTS}: .*File too large"):
            registry.put(folder, "topics")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert registry.list() == ()
    assert blobs(registry) == []


def test_an_index_that_is_full_is_told(registry, artifact, tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(*args, **options):
        db = connect(*args, **options)
        db.execute("PRAGMA max_page_count = 1")
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    info = {"text": "x" * 100_000}
    with pytest.raises(RegistryError, match=r"is full.*Free some space"):
        registry.put(artifact(), "topics", info=info)
    monkeypatch.undo()
    assert registry.list() == ()
    assert blobs(registry) == []
    assert registry.put(artifact(), "topics", info=info).version == 1


@contextmanager
def ordinary_user():
    """Give up the super-user's right to write anywhere, where the tests have it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(ORDINARY_USER)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """Return a folder that an ordinary user can enter and owns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, ORDINARY_USER, ORDINARY_USER)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)


def test_a_folder_where_nothing_can_be_made_is_told(open_folder):
    open_folder.chmod(0o555)
    with ordinary_user(), pytest.raises(RegistryError, match=r"Permission denied.*ADAPTERHUB_HOME"):
        Registry(open_folder / "home")


def test_a_registry_that_became_read_only_is_told(open_folder):
    with ordinary_user():
        folder = registry_helpers.make_artifact(open_folder / "artifact", "first")
        registry = Registry(open_folder / "home")
        version = registry.put(folder, "topics")
        registry.materialize(version)
        before = blobs(registry)
        locked = [path for path in [registry.folder, *registry.folder.rglob("*")] if path.is_dir()]
        for path in locked:
            path.chmod(0o555)
        with pytest.raises(RegistryError, match="ADAPTERHUB_HOME"):
            registry.put(folder, "other")
        with pytest.raises(RegistryError, match="ADAPTERHUB_HOME"):
            registry.remove("topics")
        for path in locked:
            path.chmod(0o755)
        assert registry.resolve("topics") == version
        assert blobs(registry) == before
        assert registry.verify() == ()


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "home").write_text("x")
    with pytest.raises(RegistryError, match="ADAPTERHUB_HOME to a folder"):
        Registry(tmp_path / "home")


def test_a_file_that_is_no_index_is_told(registry, tmp_path):
    registry.folder.joinpath("index.sqlite3").write_text("this is no database" * 100)
    with pytest.raises(RegistryError, match=r"not a database.*adapterhub registry rebuild"):
        Registry(tmp_path / "home")


def test_an_index_of_the_future_is_refused(registry, tmp_path):
    with sqlite3.connect(registry.folder / "index.sqlite3") as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(RegistryError, match=r"schema version 999.*Upgrade adapterhub"):
        Registry(tmp_path / "home")


def test_an_older_index_is_upgraded_and_keeps_its_versions(registry, artifact):
    version = registry.put(artifact(), "topics")
    later = SchemaChange("a table", ("CREATE TABLE later (x)", "INSERT INTO later VALUES (1)"))
    for _ in range(2):
        Database(registry.folder / "index.sqlite3", (*SCHEMA_CHANGES, later)).prepare()
    with Database(registry.folder / "index.sqlite3").reading() as db:
        assert db.execute("SELECT count(*) FROM later").fetchone()[0] == 1
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(SCHEMA_CHANGES) + 1
    assert registry.resolve("topics") == version


def test_an_upgrade_that_fails_changes_nothing(registry):
    broken = SchemaChange("broken", ("CREATE TABLE half (x)", "SELECT nonsense"))
    with pytest.raises(RegistryError, match="no such column"):
        Database(registry.folder / "index.sqlite3", (*SCHEMA_CHANGES, broken)).prepare()
    with Database(registry.folder / "index.sqlite3").reading() as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(SCHEMA_CHANGES)
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master")]
    assert "half" not in tables


def test_a_lock_held_for_long_is_told(registry, artifact):
    path = registry.folder / "index.sqlite3"
    with Database(path).writing() as db:
        db.execute("DELETE FROM versions")
        impatient = Database(path, busy_seconds=0.05)
        with pytest.raises(RegistryError, match="Another process keeps"), impatient.writing():
            pass
