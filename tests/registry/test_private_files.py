"""Secrets on disk: only their owner may read them, from the first byte on and after a mistake."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from adapterhub.access import open_keys
from adapterhub.errors import RegistryError
from adapterhub.hub.server import RepoStore
from adapterhub.registry import Registry
from adapterhub.registry import private_files as module

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
DATABASES = ("index.sqlite3", "keys.sqlite3", "hub.sqlite3")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def databases(folder):
    return sorted(path for path in folder.iterdir() if ".sqlite3" in path.name)


def start(home):
    store = RepoStore(home)
    open_keys(store.registry)
    return store


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def store(tmp_path, open_umask):
    return start(tmp_path)


def test_databases_and_their_folder_are_private_whatever_the_umask(store):
    folder = store.registry.folder
    with store.database.writing() as db:
        db.execute("DELETE FROM withdrawn")
        # SQLite's own files exist while a connection is open
        found = databases(folder)
        assert {path.name for path in found} > {*DATABASES, "hub.sqlite3-wal"}
        assert {mode(path) for path in found} == {0o600}
    assert mode(folder) == 0o700


def test_a_database_is_never_readable_for_a_moment(tmp_path, monkeypatch, open_umask):
    seen = []
    connect = sqlite3.connect

    def watched(address, **options):
        path = tmp_path / "registry" / address.rpartition("/")[2].partition("?")[0]
        seen.append((mode(path), mode(path.parent)))
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", watched)
    start(tmp_path)
    assert set(seen) == {(0o600, 0o700)}


def test_open_modes_are_corrected_at_the_start_and_said(store, tmp_path, caplog):
    folder = store.registry.folder
    folder.chmod(0o755)
    with store.database.writing() as db:
        db.execute("DELETE FROM withdrawn")
        for path in databases(folder):
            path.chmod(0o644)
        start_again = databases(folder)
        open_keys(Registry(tmp_path))
        module.make_private_database(folder / "hub.sqlite3")
    assert {mode(path) for path in start_again if path.exists()} == {0o600}
    assert mode(folder) == 0o700
    assert "hub.sqlite3: other users had access to it; its mode is 0600 now" in caplog.text


def test_a_mode_that_cannot_be_corrected_is_refused(store, tmp_path, monkeypatch):
    path = store.registry.folder / "keys.sqlite3"
    path.chmod(0o644)

    def refuse(self, mode):
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(RegistryError, match=r"keys\.sqlite3: other users have access.*chmod 600"):
        start(tmp_path)


def test_the_key_of_upload_links_is_replaced_if_others_could_read_it(store, tmp_path):
    before = store.secret("uploads")
    assert start(tmp_path).secret("uploads") == before
    (store.registry.folder / "hub.sqlite3").chmod(0o640)
    assert start(tmp_path).secret("uploads") != before
