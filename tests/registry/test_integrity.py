"""Stored bytes are served only when they are those that were stored."""

import os
import stat

import pytest
from registry_helpers import WEIGHTS, make_artifact, text_of

from adapterhub.errors import IntegrityError, NotFoundError, RegistryError
from adapterhub.registry import Registry


def overwrite(path, content):
    """Change a read-only file in place, as a bad disk does."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(path, bytes(content))


def blob_of(registry, version, name):
    found = registry.materialize(version) / name
    blobs = [path for path in (registry.folder / "blobs").rglob("*") if path.is_file()]
    return next(path for path in blobs if path.read_bytes() == found.read_bytes())


def test_a_checkout_has_the_artifacts_files_read_only(registry, artifact):
    folder = artifact()
    path = registry.materialize(registry.put(folder, "topics"))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }
    for file in (path, *path.iterdir()):
        assert not file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_equal_artifacts_share_one_checkout(registry, artifact):
    folder = artifact()
    one, other = registry.put(folder, "topics"), registry.put(folder, "copy")
    assert registry.materialize(one) == registry.materialize(other)
    assert registry.materialize(one) == registry.materialize(one)


@pytest.mark.parametrize("name", [WEIGHTS, "manifest.json", "README.md", "adapter_config.json"])
@pytest.mark.parametrize("checked_out", [False, True])
def test_a_flipped_byte_is_named_and_never_served(registry, artifact, name, checked_out):
    version = registry.put(artifact("first", files={"README.md": b"# Mine\n"}), "topics")
    blob = blob_of(registry, version, name)
    if not checked_out:
        checkout = registry.materialize(version)
        checkout.chmod(0o755)
        for file in checkout.iterdir():
            file.unlink()
        checkout.rmdir()
    flip(blob)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=rf"topics@1: {name} is damaged"):
            registry.materialize(version)
    (problem,) = registry.verify()
    assert (problem.refs, problem.file) == (("topics@1",), name)
    assert str(problem).startswith(f"topics@1: {name} is damaged")


def test_a_missing_blob_is_named(registry, artifact):
    version = registry.put(artifact(), "topics")
    blob = blob_of(registry, version, WEIGHTS)
    registry.remove(registry.put(artifact("other"), "topics").ref)
    registry.collect(grace=0)
    blob.unlink()
    (problem,) = registry.verify()
    assert str(problem) == f"topics@1: {WEIGHTS} is missing"


def test_a_damaged_file_that_versions_share_is_told_for_each(registry, artifact):
    one = registry.put(artifact("first"), "topics")
    registry.put(artifact("second"), "topics")
    flip(blob_of(registry, one, "README.md"))
    assert [problem.refs for problem in registry.verify()] in (
        [("topics@1",), ("topics@2",)],
        [("topics@2",), ("topics@1",)],
    )


def test_putting_the_artifact_again_restores_it(registry, artifact):
    folder = artifact()
    version = registry.put(folder, "topics")
    flip(blob_of(registry, version, WEIGHTS))
    with pytest.raises(IntegrityError):
        registry.materialize(version)
    assert registry.put(folder, "topics") == version
    assert registry.verify() == ()
    assert text_of(registry.materialize(version) / WEIGHTS) == "first"


def test_a_blob_is_replaced_in_one_step_and_never_written_to(registry, artifact):
    version = registry.put(artifact(), "topics")
    blobs = [path for path in (registry.folder / "blobs").rglob("*") if path.is_file()]
    before = {path: path.stat().st_ino for path in blobs}
    # a checkout is the same file by another name, so it is not freed and its number not reused
    registry.materialize(version)
    registry.put(artifact(), "copy")
    assert all(path.stat().st_ino != number for path, number in before.items())


@pytest.mark.parametrize("name", ["adapter_model.bin", "evil.py"])
def test_a_file_slipped_into_a_checkout_is_refused(registry, artifact, name):
    version = registry.put(artifact(), "topics")
    checkout = registry.materialize(version)
    checkout.chmod(0o755)
    (checkout / name).write_text("x")
    with pytest.raises(IntegrityError, match=f"{name} does not belong to this artifact"):
        registry.materialize(version)
    assert [
        file.name for file in registry.materialize(version).iterdir() if file.name == name
    ] == []


def test_a_removed_version_is_not_found(registry, artifact):
    version = registry.put(artifact(), "topics")
    registry.materialize(version)
    registry.remove(version.ref)
    with pytest.raises(NotFoundError):
        registry.resolve(version.ref)
    # who resolved it before can still read it, until it is collected
    assert text_of(registry.materialize(version) / WEIGHTS) == "first"
    registry.collect(grace=0)
    with pytest.raises(NotFoundError, match="does not have it now"):
        registry.materialize(version)


def test_without_hard_links_files_are_copied(registry, artifact, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    version = registry.put(artifact(), "topics")
    checkout = registry.materialize(version)
    assert (checkout / WEIGHTS).stat().st_nlink == 1
    flip(checkout / WEIGHTS)
    with pytest.raises(IntegrityError, match=WEIGHTS):
        registry.materialize(version)
    assert text_of(registry.materialize(version) / WEIGHTS) == "first"


def test_a_damaged_index_is_told(registry, artifact):
    registry.put(artifact(), "topics")
    path = registry.folder / "index.sqlite3"
    content = bytearray(path.read_bytes())
    # the first page holds the schema, the next one the artifacts
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    problem, *_ = registry.verify()
    assert (problem.refs, problem.file) == ((), "index.sqlite3")
    with pytest.raises(RegistryError, match="adapterhub registry rebuild"):
        registry.put(artifact("second"), "topics")


def test_an_artifact_with_large_files_is_hashed_in_chunks(tmp_path, registry):
    content = "0123456789abcdef" * 200_000
    folder = make_artifact(tmp_path / "large", content)
    version = registry.put(folder, "large")
    assert text_of(registry.materialize(version) / WEIGHTS) == content
    assert version.size == sum(path.stat().st_size for path in folder.iterdir())


def test_a_registry_is_as_good_after_it_was_moved(tmp_path, registry, artifact):
    version = registry.put(artifact(), "topics")
    registry.materialize(version)
    (tmp_path / "home").rename(tmp_path / "moved")
    moved = Registry(tmp_path / "moved")
    assert moved.verify() == ()
    assert text_of(moved.materialize(version) / WEIGHTS) == "first"
