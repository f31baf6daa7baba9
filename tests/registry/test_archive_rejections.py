"""An archive of anything but one whole version is refused, and nothing is stored."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from archive_helpers import (
    ada,
    entry,
    exported,
    extended,
    members,
    other,
    pack,
    refused,
    repack,
    version,
)
from registry_helpers import WEIGHTS, weights_file
from signing_helpers import changed, snapshot

import adapterhub.adapters.artifact
from adapterhub.errors import ArtifactError, NotFoundError, RefError, RegistryError, SignatureError
from adapterhub.registry.archive import export, intake
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version
from adapterhub.registry.archive.members import MAX_BYTES, MAX_FILES

__all__ = ["ada", "exported", "other", "version"]


def test_the_bound_is_that_of_reading_an_artifact():
    assert MAX_BYTES == adapterhub.adapters.artifact.MAX_BYTES


KEY_NAME = "signatures/0123456789abcdef.sig"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (entry("artifact/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is unsafe"),
        (entry("artifact/x", type=tarfile.LNKTYPE, linkname="../y"), "is unsafe"),
        (entry("artifact/x", type=tarfile.CHRTYPE), "is unsafe"),
        (entry("artifact/x", type=tarfile.BLKTYPE), "is unsafe"),
        (entry("artifact/x", type=tarfile.FIFOTYPE), "is unsafe"),
        (entry("artifact/x", type=tarfile.GNUTYPE_SPARSE), "is not a regular file"),
        (entry("artifact/x", type=tarfile.CONTTYPE), "is not a regular file"),
        (entry("artifact/x", type=b"V"), "is unsafe"),
        (entry("artifact/x", type=tarfile.DIRTYPE), "is not a regular file"),
        (extended({"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}), "is not a regular file"),
        (extended({"path": "../x"}), "is unsafe"),
        (extended({"path": "artifact/a\0b"}), "is unsafe"),
        (extended({"path": "artifact/" + "a" * 600}), "cannot be a file of an artifact"),
        (extended({"size": "-512"}), "is not a regular file"),
        (extended({"size": str(10**12)}), "is too large"),
        (extended({"x": "y" * 9000}), "has headers of more than 8192 bytes for one file"),
        (entry("artifact/" + "a" * 9000), "has headers of more than 8192 bytes for one file"),
        (entry("/etc/passwd", b"x"), "does not belong to an export"),
        (entry("/export.json", b"x"), "does not belong to an export"),
        (entry("artifact/x", type=tarfile.SYMTYPE, linkname="y"), "is not a regular file"),
        (entry("artifact/x", type=tarfile.LNKTYPE, linkname="y"), "is not a regular file"),
        (entry("\\\\server\\x", b"x"), "cannot be a file of an artifact"),
        (entry("C:x", b"x"), "cannot be a file of an artifact"),
        (entry("../x", b"x"), "is unsafe"),
        (entry("artifact/../../x", b"x"), "is unsafe"),
        (entry("artifact\\..\\x", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/a\nb", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/\x1b[2J", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/\x7f", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/sub/x", b"x"), "does not belong to an export"),
        (entry("./export.json", b"x"), "does not belong to an export"),
        (entry("artifact//x", b"x"), "does not belong to an export"),
        (entry("x.txt", b"x"), "does not belong to an export"),
        (entry("artifact/ü", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/.hidden", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/" + "a" * 129, b"x"), "cannot be a file of an artifact"),
        (entry("artifact/" + "a" * 600, b"x"), "cannot be a file of an artifact"),
        (entry("artifact/weights.bin", b"x"), "is a pickle"),
        (entry("weights.PT", b"x"), "is a pickle"),
        (entry("signatures/key.pem", b"x"), "does not belong to an export"),
        (entry(f"artifact/{WEIGHTS}", b"first"), "occurs twice"),
        (entry("export.json", b"{}"), "occurs twice"),
        (entry("artifact/extra.txt", b"x"), "is not listed in manifest.json"),
        (entry(KEY_NAME, b"x" * 70_000), "is too large"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_an_entry_that_does_not_belong_is_refused(exported, other, tmp_path, added, said, place):
    good = [entry(name, content) for name, content in members(exported).items()]
    entries = [added, *good] if place == "first" else [*good, added]
    format = tarfile.PAX_FORMAT if added[0].pax_headers else tarfile.GNU_FORMAT
    refused(other, pack(tmp_path / "bad.tar", entries, format), said)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"no json"])
def test_an_entry_that_is_no_signature_is_refused(exported, other, tmp_path, content):
    contents = {**members(exported), KEY_NAME: content}
    refused(other, repack(tmp_path / "bad.tar", contents), "is not a signature", SignatureError)


def test_a_signature_under_another_keys_name_is_refused(exported, other, tmp_path):
    contents = members(exported)
    (name,) = (name for name in contents if name.startswith("signatures"))
    contents[KEY_NAME] = contents.pop(name)
    path = repack(tmp_path / "bad.tar", contents)
    refused(other, path, "is by the key", SignatureError)


def test_a_wrong_signature_by_a_trusted_key_is_refused(exported, other, tmp_path, ada):
    other.trust("ada", ada.pem)
    contents = members(exported)
    (name,) = (name for name in contents if name.startswith("signatures"))
    contents[name] = changed(contents[name], sig=b"x" * 70)
    path = repack(tmp_path / "bad.tar", contents)
    refused(other, path, "is invalid", SignatureError)
    other.distrust("ada")
    assert import_version(other, path).version == 1


@pytest.mark.parametrize(
    ("change", "said", "kind"),
    [
        ({"digest": "sha256:" + "0" * 64}, "export.json says sha256:0000", ArtifactError),
        ({"digest": "md5:1"}, "must be 'sha256:' and 64 hex digits", ArtifactError),
        ({"format": 2}, "Upgrade adapterhub", ArtifactError),
        ({"format": None}, "Upgrade adapterhub", ArtifactError),
        ({"name": "../x"}, "contains '..'", RefError),
        ({"name": "a\nb"}, "control character", RefError),
        ({"name": 7}, "must be text", ArtifactError),
        ({"tags": ["No Tag"]}, "is not a tag", RefError),
        ({"tags": ["a", "a"]}, "has the tag 'a' twice", ArtifactError),
        ({"tags": "a"}, "must be a list", ArtifactError),
        ({"info": []}, "must be an object", ArtifactError),
        ({"info": json.loads('{"a":' * 40 + "1" + "}" * 40)}, "nested deeper", ArtifactError),
        ({"version": -1}, "must be 0 or more", ArtifactError),
        ({"more": 1}, "is an unknown key", ArtifactError),
        ({"info": {"x": "y" * 1_100_000}}, "is too large", ArtifactError),
    ],
)
def test_a_description_that_lies_is_refused(exported, other, tmp_path, change, said, kind):
    contents = members(exported)
    document = {**json.loads(contents["export.json"]), **change}
    contents["export.json"] = json.dumps(document).encode()
    refused(other, repack(tmp_path / "bad.tar", contents), said, kind)


def test_an_infinite_number_is_refused(exported, other, tmp_path):
    contents = members(exported)
    contents["export.json"] = contents["export.json"].replace(b"1.5", b"1e999")
    refused(other, repack(tmp_path / "bad.tar", contents), "info.seconds: must be a finite")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"artifact/{WEIGHTS}": weights_file("firsT")}, "has the sha256"),
        ({f"artifact/{WEIGHTS}": b"shorter"}, "has 7 bytes, manifest.json says"),
        ({"artifact/README.md": None}, "'README.md' is listed"),
        ({"artifact/manifest.json": None}, "has no manifest.json"),
        ({"artifact/manifest.json": b"{}"}, "export.json says"),
        ({"artifact/manifest.json": b"{}", "export.json": None}, "schema_version"),
        ({"export.json": b"{"}, "is not valid JSON"),
        ({"export.json": b"{}"}, "Upgrade adapterhub"),
    ],
)
def test_files_that_are_not_what_the_manifest_says_are_refused(
    exported, other, tmp_path, change, said
):
    contents = {**members(exported), **change}
    kept = {name: content for name, content in contents.items() if content is not None}
    refused(other, repack(tmp_path / "bad.tar", kept), said, name="topics")


def test_too_many_files_are_refused_before_they_are_written(exported, other, tmp_path, monkeypatch):
    many = {f"artifact/{number}": b"" for number in range(MAX_FILES + 1)}
    refused(other, repack(tmp_path / "bad.tar", many), "has more than 1000 files")


def test_sizes_are_refused_before_they_are_written(other, tmp_path, monkeypatch):
    info, _ = entry("artifact/x")
    info.size = MAX_BYTES + 1
    path = tmp_path / "bad.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is too large")
    info.size = 10**12
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is too large")
    info.size = 17 * 1024**2
    info.name = "artifact/manifest.json"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is too large")


def test_the_sum_of_the_sizes_is_bounded(exported, other, tmp_path, monkeypatch):
    size = sum(len(content) for content in members(exported).values())
    monkeypatch.setattr(intake, "MAX_BYTES", size - 1)
    refused(other, exported, "is too large")
    monkeypatch.setattr(intake, "MAX_BYTES", size)
    assert import_version(other, exported).version == 1


def test_what_could_not_be_imported_is_not_exported(registry, version, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_BYTES", 100)
    with pytest.raises(RegistryError, match="too large to be imported"):
        export_version(registry, "topics", tmp_path / "x.tar")
    assert not list(tmp_path.glob("*x.tar")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_with_a_hint(exported, other, tmp_path, mode):
    path = tmp_path / f"bad.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as file:
        file.add(exported, "export.json")
    refused(other, path, "Decompress it first")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"x" * 600, b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04K\x01."]
)
def test_what_is_no_archive_is_refused(other, tmp_path, content):
    path = tmp_path / "bad"
    path.write_bytes(content)
    before = snapshot(other)
    with pytest.raises(ArtifactError):
        import_version(other, path, name="x")
    assert snapshot(other) == before


def test_what_is_no_file_is_refused(other, tmp_path):
    refused(other, tmp_path / "absent.tar", "there is no such file", NotFoundError)
    refused(other, tmp_path, "cannot be read: Is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(other, tmp_path / "pipe", "is not a tar or zip file")
    refused(other, Path("/dev/zero"), "has data after its end")
