"""One file to carry: what comes out goes in again, on a machine without a network too."""

import io
import json
import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from archive_helpers import NAMES, ada, exported, members, other, pack_zip, refused, repack, version
from registry_helpers import WEIGHTS, make_artifact, text_of
from signing_helpers import snapshot
from toy_fixtures import command

from adapterhub.errors import ArtifactError, IntegrityError, RefError
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version, read_export
from adapterhub.registry.sigstore import signature_name

__all__ = ["ada", "command", "exported", "other", "version"]


def test_a_version_arrives_with_its_tags_and_signatures(registry, version, exported, other):
    imported = import_version(other, exported)
    assert (imported.name, imported.version, imported.digest) == ("topics", 1, version.digest)
    assert (imported.tags, imported.info) == (version.tags, version.info)
    assert other.signatures(imported) == registry.signatures(version) != ()
    there, here = other.materialize(imported), registry.materialize(version)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in here.iterdir()
    }
    assert other.verify() == ()


def test_importing_again_changes_nothing(exported, other):
    first = import_version(other, exported)
    entries, files = snapshot(other)
    again = import_version(other, exported)
    assert again == first
    assert snapshot(other)[1] == files
    after = {**snapshot(other)[0], "signatures": entries["signatures"]}
    assert after == entries


def test_importing_adds_what_is_new_and_restores_what_is_damaged(
    registry, version, exported, other
):
    held = other.put(registry.materialize(version), "topics", info={"mine": True}, tags=["own"])
    blob = other.materialize(held) / WEIGHTS
    blob.chmod(0o644)
    blob.write_text("firsT")
    with pytest.raises(IntegrityError):
        other.materialize(held)
    imported = import_version(other, exported)
    assert imported.version == held.version
    assert imported.tags == ("best", "lang:en", "own")
    assert imported.info == {"mine": True}
    assert len(other.signatures(imported)) == 1
    assert other.verify() == ()
    assert text_of(other.materialize(imported) / WEIGHTS) == "first"


def test_another_name_can_be_given(exported, other):
    assert str(import_version(other, exported, name="team/desk").ref) == "team/desk@1"
    before = snapshot(other)
    with pytest.raises(RefError):
        import_version(other, exported, name="../desk")
    assert snapshot(other) == before


def test_equal_versions_give_equal_bytes_that_any_tar_reads(registry, version, exported, tmp_path):
    made = export_version(registry, "topics@1", tmp_path / "again.tar")
    content = exported.read_bytes()
    assert (tmp_path / "again.tar").read_bytes() == content
    assert (made.size, made.sha256) == (len(content), sha256(content).hexdigest())
    (signature,) = registry.signatures(version)
    with tarfile.open(exported) as file:
        infos = file.getmembers()
    assert [info.name for info in infos] == [
        "export.json",
        "artifact/manifest.json",
        *[f"artifact/{name}" for name in NAMES],
        f"signatures/{signature_name(signature.key)}",
    ]
    for info in infos:
        assert info.isreg()
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
    document = json.loads(members(exported)["export.json"])
    assert document == {
        "format": 1,
        "name": "topics",
        "version": 1,
        "digest": version.digest,
        "created": version.created,
        "tags": ["best", "lang:en"],
        "info": {"seconds": 1.5, "näme": ["x"]},
    }
    (tmp_path / "out").mkdir()
    unpack = ["tar", "-xf", str(exported), "-C", str(tmp_path / "out")]
    assert subprocess.run(unpack, check=False).returncode == 0
    assert text_of(tmp_path / "out/artifact" / WEIGHTS) == "first"


def test_names_as_long_as_they_may_be(registry, other, tmp_path):
    files = {"a" * 128: b"one", "b" * 92: b"two", "c" * 91: b"three"}
    version = registry.put(make_artifact(tmp_path / "long", "w", files=files), "long")
    export_version(registry, "long", tmp_path / "long.tar")
    imported = import_version(other, tmp_path / "long.tar")
    assert imported.digest == version.digest


def test_a_large_file_and_an_empty_one(registry, other, tmp_path):
    content = "0123456789abcdef" * 200_000
    folder = make_artifact(tmp_path / "large", content, files={"empty.txt": b""})
    export_version(registry, registry.put(folder, "large").ref, tmp_path / "large.tar")
    imported = import_version(other, tmp_path / "large.tar")
    assert text_of(other.materialize(imported) / WEIGHTS) == content


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("layout", ["export", "artifact", "top"])
def test_what_others_packed_of_the_same_files_is_read(
    registry, version, exported, other, tmp_path, kind, layout
):
    contents = members(exported)
    if layout != "export":
        del contents["export.json"]
    if layout == "top":
        contents = {name.split("/")[1]: content for name, content in contents.items()}
    path = tmp_path / "packed"
    if kind == "tar":
        repack(path, contents)
    else:
        folders = {"artifact/": b"", "signatures/": b""} if layout != "top" else {}
        pack_zip(path, {**folders, **contents})
    if layout != "export":
        refused(other, path, "Give one with --name", RefError)
    imported = import_version(other, path, name=None if layout == "export" else "topics")
    assert imported.digest == version.digest
    assert other.signatures(imported) == registry.signatures(version)


@pytest.mark.parametrize("format", ["ustar", "gnu", "v7", "posix"])
def test_tar_files_of_the_command_are_read(registry, version, exported, other, tmp_path, format):
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(exported, folder, "tar", filter="data")
    path = tmp_path / "packed.tar"
    parts = ["export.json", "artifact", "signatures"]
    words = ["tar", f"--format={format}", "-C", str(folder), "-cf", str(path), *parts]
    assert subprocess.run(words, check=False).returncode == 0
    assert import_version(other, path).digest == version.digest


class Pipe(io.RawIOBase):
    """Gives its bytes in small parts, and can't be gone back in."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def readable(self):
        return True

    def read(self, size=-1):
        return self._file.read(min(size, 700))


def test_a_pipe_will_do(exported, other):
    assert str(read_export(other, Pipe(exported.read_bytes()), "a pipe").ref) == "topics@1"


def test_a_zip_file_can_not_be_piped(exported, other, tmp_path):
    content = pack_zip(tmp_path / "packed.zip", members(exported)).read_bytes()
    with pytest.raises(ArtifactError, match="Pipe a tar file"):
        read_export(other, Pipe(content), "a pipe")


def test_to_a_machine_without_a_network(command, registry, version, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert "exported topics@1" in command("export", "topics", "topics.tar").stdout
    shown = json.loads(command("export", "topics", "topics.tar", "--force", "--json").stdout)
    content = Path("topics.tar").read_bytes()
    assert (shown["size"], shown["sha256"]) == (len(content), sha256(content).hexdigest())
    again = command("export", "topics", "topics.tar")
    assert (again.exit_code, b"--force" in again.stderr_bytes) == (1, True)
    assert command("export", "topics", "-").stdout_bytes == content
    assert command("export", "topics", "-", "--json").exit_code == 2

    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "elsewhere"))
    imported = json.loads(command("import", "topics.tar", "--json").stdout)
    assert imported == {
        "ref": "topics@1",
        "digest": version.digest,
        "signatures": shown["signatures"],
        "tags": ["best", "lang:en"],
        "size": version.size,
    }
    assert "stored as desk@1" in command("import", "topics.tar", "--name", "desk").stdout
    assert "stored as topics@1" in command("import", "-", stdin=content).stdout
    Path("bad.tar").write_bytes(content[:2000])
    bad = command("import", "bad.tar")
    assert (bad.exit_code, b"is cut off" in bad.stderr_bytes) == (5, True)
    assert command("import", "absent.tar").exit_code == 4
