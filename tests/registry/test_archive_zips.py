"""A zip file is read as strictly as a tar file, and random bytes are one clear error."""

import io
import itertools
import stat
import tarfile
import zipfile

import pytest
from archive_helpers import (
    ada,
    entry,
    exported,
    members,
    other,
    pack_zip,
    read_all,
    refused,
    version,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_helpers import WEIGHTS
from signing_helpers import snapshot

from adapterhub.errors import AdapterHubError, ArtifactError
from adapterhub.registry.archive import intake
from adapterhub.registry.archive import members as reader
from adapterhub.registry.archive.intake import import_version
from adapterhub.registry.archive.members import Member

__all__ = ["ada", "exported", "other", "version"]


def test_a_zip_bomb_is_counted_and_not_trusted(exported, other, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BYTES", 1_000_000)
    path = pack_zip(tmp_path / "bad.zip", {"artifact/x": bytes(50_000_000)})
    refused(other, path, "unpacks to 50000000 bytes from 48")
    # and one whose headers say that it is small
    content = path.read_bytes().replace((50_000_000).to_bytes(4, "little"), b"\x05\0\0\0")
    path.write_bytes(content)
    before = snapshot(other)
    with pytest.raises(ArtifactError):
        import_version(other, path, name="x")
    assert snapshot(other) == before


def test_a_zip_bomb_is_refused_before_it_is_unpacked(other, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_zip_chunks", None)
    bomb = {"artifact/manifest.json": b"{}", f"artifact/{WEIGHTS}": bytes(3_000_000)}
    refused(other, pack_zip(tmp_path / "ratio.zip", bomb), "Pack it without compression")
    monkeypatch.setattr(reader, "MAX_BYTES", 3_000_000)
    monkeypatch.setattr(reader, "MAX_RATIO", 10_000)
    refused(other, pack_zip(tmp_path / "total.zip", bomb), "unpacks to 3000002 bytes, the limit")
    monkeypatch.setattr(reader, "MAX_FILES", 1)
    many = {f"artifact/{number}": b"" for number in range(4)}
    refused(other, pack_zip(tmp_path / "many.zip", many), "has more than 1 files")


def test_bytes_are_counted_whatever_the_reader_says(exported, other, monkeypatch):
    def lie(*_):
        yield Member("artifact/x", 5, itertools.repeat(bytes(500)))

    monkeypatch.setattr(intake, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(intake, "read_members", lie)
    refused(other, exported, "is too large")


@pytest.mark.parametrize("name", ["../x", "/x", "artifact/../../x", "artifact/a\x00b", "a/b/c"])
def test_names_in_a_zip_file_are_as_strict(exported, other, tmp_path, name):
    contents = {**members(exported), "artifact/NNN": b"x"}
    path = pack_zip(tmp_path / "bad.zip", contents)
    # the module would tidy the name up
    padded = name.encode().ljust(12, b"_")
    content = path.read_bytes()
    if len(name) <= 12:
        content = content.replace(b"artifact/NNN", padded)
        path.write_bytes(content)
    else:
        path = pack_zip(path, {**members(exported), name: b"x"})
    before = snapshot(other)
    with pytest.raises(ArtifactError):
        import_version(other, path)
    assert snapshot(other) == before


def test_a_name_that_goes_on_after_a_null_is_not_shortened(exported, other, tmp_path):
    contents = members(exported)
    contents["artifact/README.mdX.sh"] = contents.pop("artifact/README.md")
    path = pack_zip(tmp_path / "bad.zip", contents)
    path.write_bytes(path.read_bytes().replace(b"README.mdX.sh", b"README.md\0.sh"))
    refused(other, path, "cannot be a file of an artifact")


def test_a_name_twice_in_a_zip_file_is_refused(exported, other, tmp_path):
    path = pack_zip(tmp_path / "bad.zip", {**members(exported), "artifact/READMEXmd": b"x"})
    path.write_bytes(path.read_bytes().replace(b"READMEXmd", b"README.md"))
    refused(other, path, "occurs twice")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (stat.S_IFLNK | 0o777, "is not a regular file"),
        (stat.S_IFIFO | 0o644, "is not a regular file"),
        (stat.S_IFCHR | 0o644, "is not a regular file"),
    ],
)
def test_links_and_devices_in_a_zip_file_are_refused(exported, other, tmp_path, mode, said):
    info = zipfile.ZipInfo("artifact/x")
    info.create_system = 3
    info.external_attr = mode << 16
    path = pack_zip(tmp_path / "bad.zip", members(exported))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(info, "/etc/passwd")
    refused(other, path, said)


def test_an_encrypted_zip_file_is_refused(exported, other, tmp_path):
    path = pack_zip(tmp_path / "bad.zip", {"artifact/x": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(other, path, "'artifact/x' is encrypted. Pack it unencrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_ways_to_compress_are_refused(exported, other, tmp_path, method):
    path = pack_zip(tmp_path / "bad.zip", members(exported), compress_type=method)
    refused(other, path, "compressed with an unsupported method")


def test_a_zip_file_with_a_huge_table_or_a_comment_is_refused(exported, other, tmp_path):
    path = tmp_path / "bad.zip"
    pack_zip(path, {f"artifact/{number:0>100}": b"" for number in range(10_000)})
    refused(other, path, "has too large a central directory")
    pack_zip(path, members(exported))
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"a comment"
    refused(other, path, "has a comment at its end")


def test_a_damaged_zip_file_is_refused_or_means_the_same(exported, other, tmp_path, version):
    content = pack_zip(tmp_path / "good.zip", members(exported)).read_bytes()
    path = tmp_path / "bad.zip"
    for offset in range(0, len(content), 13):
        for damaged in (
            content[:offset],
            content[:offset] + bytes([content[offset] ^ 0x21]) + content[offset + 1 :],
        ):
            path.write_bytes(damaged)
            try:
                imported = import_version(other, path, name="topics")
            except AdapterHubError:
                continue
            assert imported.digest == version.digest
    assert other.verify() == ()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_bytes_at_random_are_one_clear_error(content, magic):
    with pytest.raises(ArtifactError):
        read_all(io.BytesIO(magic + b"\x01" + content))


NAME = st.text("abXY.-_ü/ ", min_size=1, max_size=130)
FILES = st.lists(st.tuples(NAME.filter(lambda name: ".." not in name), st.binary()))


@settings(max_examples=100, deadline=None)
@given(FILES, st.sampled_from([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT]))
def test_tar_files_are_read_as_the_standard_library_reads_them(files, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as file:
        for name, content in files:
            try:
                info, _ = entry(name, content)
                file.addfile(info, io.BytesIO(content))
            except ValueError:
                # too long for this format
                continue
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as file:
        expected = [
            (info.name, file.extractfile(info).read()) for info in file.getmembers() if info.isreg()
        ]
    buffer.seek(0)
    found = [(name.rstrip("/"), content) for name, content in read_all(buffer)]
    assert found == [(name.rstrip("/"), content) for name, content in expected]
