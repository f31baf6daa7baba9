"""A reference is read from the index once, until the index changes."""

import os
import shutil
import time
from contextlib import contextmanager

import pytest

from adapterhub.errors import NotFoundError, RegistryError
from adapterhub.registry import Registry
from adapterhub.registry.journaled_index import JournaledIndex


@pytest.fixture
def reads(monkeypatch):
    """Count the reads of the index."""
    count, own = [], JournaledIndex.reading

    @contextmanager
    def reading(self):
        count.append(1)
        with own(self) as db:
            yield db

    monkeypatch.setattr(JournaledIndex, "reading", reading)
    return count


def settle(registry):
    """Make the files of a registry older than a tick of the clock."""
    past = time.time() - 5
    for path in registry.folder.iterdir():
        if path.is_file():
            os.utime(path, (past, past))


def test_a_reference_is_read_once_while_nothing_changes(registry, artifact, reads):
    registry.put(artifact(), "topics")
    settle(registry)
    first = registry.resolve("topics")
    before = len(reads)
    assert registry.resolve("topics") == first
    assert registry.resolve("topics@1") == first
    assert len(reads) == before + 1


def test_changes_of_another_process_are_seen_at_once(registry, artifact, tmp_path):
    registry.put(artifact("first"), "topics")
    registry.put(artifact("second"), "topics")
    other = Registry(tmp_path / "home")
    for number in (1, 2, 1):
        settle(registry)
        registry.resolve("topics")
        other.set_alias(f"topics@{number}", "prod")
        assert registry.resolve("topics").version == number
    settle(registry)
    assert registry.resolve("topics@2").version == 2
    other.remove("topics@2")
    with pytest.raises(NotFoundError):
        registry.resolve("topics@2")


def test_a_name_that_was_missing_is_found_once_it_exists(registry, artifact):
    registry.put(artifact("first"), "topics")
    settle(registry)
    with pytest.raises(NotFoundError):
        registry.resolve("other")
    registry.put(artifact("second"), "other")
    assert registry.resolve("other").version == 1


def test_an_older_index_in_its_place_is_noticed_at_once(registry, artifact, tmp_path):
    registry.put(artifact("first"), "topics")
    index = registry.folder / "index.sqlite3"
    shutil.copy2(index, tmp_path / "older")
    registry.put(artifact("second"), "topics")
    settle(registry)
    assert registry.resolve("topics").version == 2
    shutil.copy2(tmp_path / "older", index)
    with pytest.raises(RegistryError, match="older than its journal"):
        registry.resolve("topics")
