"""Full disks, kills and neighbours while a version is written out or brought in."""

import errno
import os
import resource
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import registry_helpers
from archive_helpers import NAMES, ada, exported, other, version
from registry_helpers import WEIGHTS, make_artifact
from signing_helpers import snapshot
from test_failures import open_folder, ordinary_user

from adapterhub.errors import ArtifactError, IntegrityError, RegistryError
from adapterhub.registry import Registry
from adapterhub.registry.archive import atomic_file
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version

__all__ = ["ada", "exported", "open_folder", "other", "version"]


IMPORT_STEPS = [
    *["read a file"] * 6,
    "checked",
    *[f"staged {name}" for name in (*NAMES, "manifest.json")],
    "staged signature",
    "locked",
    *[f"placed {name}" for name in (*NAMES, "manifest.json")],
    "listed",
    "placed signature",
    "listed signature",
    "tagged",
    "committed",
]


def test_a_file_is_not_overwritten_unless_told(registry, version, exported, tmp_path):
    exported.write_text("precious")
    with pytest.raises(RegistryError, match=r"File exists.*--force"):
        export_version(registry, "topics", exported)
    assert exported.read_text() == "precious"
    export_version(registry, "topics", exported, overwrite=True)
    assert tarfile.is_tarfile(exported)
    with pytest.raises(RegistryError, match="cannot be written"):
        export_version(registry, "topics", tmp_path / "home", overwrite=True)
    with pytest.raises(RegistryError, match="No such file or directory"):
        export_version(registry, "topics", tmp_path / "absent" / "topics.tar")
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_appears_meanwhile_is_not_overwritten(registry, version, tmp_path):
    target = tmp_path / "topics.tar"

    def appear(step):
        if step == "written":
            target.write_text("precious")

    with pytest.raises(RegistryError, match="File exists"):
        export_version(registry, "topics", target, on_step=appear)
    assert target.read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


def test_without_hard_links_it_is_renamed(registry, version, tmp_path, monkeypatch):
    registry.materialize(version)
    monkeypatch.setattr(os, "link", lambda *_, **__: _raise(errno.EPERM))
    export_version(registry, "topics", tmp_path / "topics.tar")
    assert tarfile.is_tarfile(tmp_path / "topics.tar")
    with pytest.raises(RegistryError, match="File exists"):
        export_version(registry, "topics", tmp_path / "topics.tar")


def _raise(code):
    raise OSError(code, os.strerror(code))


def test_damage_is_not_exported(registry, version, tmp_path):
    blob = registry.materialize(version) / WEIGHTS
    blob.chmod(0o644)
    blob.write_text("firsT")
    with pytest.raises(IntegrityError, match=WEIGHTS):
        export_version(registry, "topics", tmp_path / "topics.tar")
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*"))


def test_an_export_that_does_not_fit_leaves_nothing(registry, tmp_path):
    registry.put(make_artifact(tmp_path / "large", "x" * 3_000_000), "topics")
    registry.materialize(registry.resolve("topics"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(RegistryError, match=r"topics.tar: .*File too large.*Free some space"):
            export_version(registry, "topics", tmp_path / "topics.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*"))


def test_an_import_that_does_not_fit_changes_nothing(registry, other, tmp_path):
    registry.put(make_artifact(tmp_path / "large", "x" * 3_000_000), "topics")
    export_version(registry, "topics", tmp_path / "topics.tar")
    before = snapshot(other)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(RegistryError, match=r"other.*File too large.*Free some space"):
            import_version(other, tmp_path / "topics.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert snapshot(other) == before


def test_folders_that_can_not_be_written_are_told(open_folder):
    with ordinary_user():
        folder = make_artifact(open_folder / "artifact", "first")
        registry, other = Registry(open_folder / "home"), Registry(open_folder / "other")
        registry.put(folder, "topics")
        (open_folder / "out").mkdir()
        export_version(registry, "topics", open_folder / "topics.tar")
        before = snapshot(other)
        locked = [other.folder, *other.folder.rglob("*"), open_folder / "out"]
        for path in filter(Path.is_dir, locked):
            path.chmod(0o555)
        with pytest.raises(RegistryError, match=r"out/x.tar: .*Permission denied"):
            export_version(registry, "topics", open_folder / "out" / "x.tar")
        with pytest.raises(RegistryError, match="ADAPTERHUB_HOME"):
            import_version(other, open_folder / "topics.tar")
        for path in filter(Path.is_dir, locked):
            path.chmod(0o755)
        assert snapshot(other) == before
        (open_folder / "topics.tar").chmod(0)
        with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
            import_version(other, open_folder / "topics.tar")


def test_the_steps_are_those_that_are_tested(exported, tmp_path):
    steps = []
    registry = Registry(tmp_path / "new", on_step=steps.append)
    import_version(registry, exported, on_step=steps.append)
    assert steps == IMPORT_STEPS


@pytest.mark.parametrize("step", [step for step in IMPORT_STEPS[5:] if step != "committed"])
def test_a_full_disk_while_importing_changes_nothing(exported, other, step):
    before = snapshot(other)

    def full(name):
        if name == step:
            _raise(errno.ENOSPC)

    full_disk = Registry(other.folder.parent, on_step=full)
    with pytest.raises(RegistryError, match=r"No space left.*Free some space"):
        import_version(full_disk, exported, on_step=full)
    assert snapshot(other) == before


def kill(action, root, step, argument):
    words = [sys.executable, registry_helpers.__file__, action, root, step, argument]
    return subprocess.run([str(word) for word in words], check=False).returncode


@pytest.mark.parametrize("step", IMPORT_STEPS[5:])
def test_killed_while_importing(exported, other, version, step):
    entries, _ = snapshot(other)
    assert kill("import", other.folder.parent, step, exported) == 77
    after = Registry(other.folder.parent)
    if step == "committed":
        assert after.resolve("topics").tags == version.tags
    else:
        assert snapshot(after)[0] == entries
    assert after.verify() == ()
    imported = import_version(after, exported)
    assert (imported.version, imported.tags) == (1, version.tags)
    assert len(after.signatures(imported)) == 1
    after.remove("topics")
    after.collect(grace=0)
    assert len([p for p in (after.folder / "blobs").rglob("*") if p.is_file()]) == 4


@pytest.mark.parametrize("step", ["written", "exported"])
def test_killed_while_exporting(registry, version, tmp_path, step):
    target = tmp_path / "topics.tar"
    assert kill("export", tmp_path / "home", step, target) == 77
    assert target.exists() is (step == "exported")
    assert len(list(tmp_path.glob(".*.partial"))) == (step == "written")
    made = export_version(registry, "topics", target, overwrite=True)
    assert sha256(target.read_bytes()).hexdigest() == made.sha256
    assert not list(tmp_path.glob(".*"))


def test_only_what_was_left_of_the_same_target_is_removed(registry, version, tmp_path):
    assert kill("export", tmp_path / "home", "written", tmp_path / "topics.tar") == 77
    (left,) = tmp_path.glob(".*.partial")
    strangers = {".x.partial", f"{left.name}.partial", f"x{left.name}", left.name.upper()}
    for name in strangers:
        (tmp_path / name).write_text("not ours")
    export_version(registry, "topics", tmp_path / "other.tar")
    assert left.exists()
    export_version(registry, "topics", tmp_path / "topics.tar")
    assert not left.exists()
    assert {path.name for path in tmp_path.glob("*.[pP][aA]*")} == strangers


def test_what_another_writes_at_once_is_left_to_it(registry, version, tmp_path):
    target = tmp_path / "topics.tar"
    inner = []

    def export_too(step):
        if step == "written":
            (mine,) = tmp_path.glob(".*.partial")
            inner.append(export_version(registry, "topics", target))
            assert mine.exists()

    outer = export_version(registry, "topics", target, overwrite=True, on_step=export_too)
    assert inner == [outer]
    assert sha256(target.read_bytes()).hexdigest() == outer.sha256
    assert not list(tmp_path.glob(".*"))


def test_a_file_taken_for_abandoned_too_early_is_begun_anew(
    registry, version, tmp_path, monkeypatch
):
    real, calls = atomic_file.fcntl.flock, []

    def late(file, operation):
        if not calls:
            calls.append(operation)
            atomic_file._remove_abandoned(tmp_path / "topics.tar")
            assert not list(tmp_path.glob(".*.partial"))
        real(file, operation)

    monkeypatch.setattr(atomic_file.fcntl, "flock", late)
    export_version(registry, "topics", tmp_path / "topics.tar")
    assert tarfile.is_tarfile(tmp_path / "topics.tar")
    assert not list(tmp_path.glob(".*"))


def test_without_locks_nothing_is_taken_for_abandoned(registry, version, tmp_path, monkeypatch):
    assert kill("export", tmp_path / "home", "written", tmp_path / "topics.tar") == 77
    monkeypatch.setattr(atomic_file.fcntl, "flock", lambda *_: _raise(errno.ENOLCK))
    export_version(registry, "topics", tmp_path / "topics.tar")
    assert tarfile.is_tarfile(tmp_path / "topics.tar")
    assert len(list(tmp_path.glob(".*.partial"))) == 1


def test_many_export_the_same_file_at_once(registry, version, tmp_path):
    target = tmp_path / "topics.tar"
    with ThreadPoolExecutor(16) as pool:
        made = list(
            pool.map(
                lambda _: export_version(registry, "topics", target, overwrite=True), range(100)
            )
        )
    assert {each.sha256 for each in made} == {sha256(target.read_bytes()).hexdigest()}
    assert not list(tmp_path.glob(".*"))
