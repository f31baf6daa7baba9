"""Whatever the headers of a tar file say, what is read is bounded and a fault is one error."""

import contextlib
import io
import tarfile

import pytest
from archive_helpers import ada, entry, exported, members, other, pack, read_all, refused, version
from signing_helpers import snapshot

from adapterhub.errors import AdapterHubError, ArtifactError
from adapterhub.registry.archive.intake import import_version, read_export

__all__ = ["ada", "exported", "other", "version"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_that_is_cut_off_anywhere_is_refused(exported, other, tmp_path, format):
    path = tmp_path / "bad.tar"
    entries = [
        entry(name, content, pax_headers={"comment": "x" * 700})
        for name, content in members(exported).items()
    ]
    content = pack(path, entries, format).read_bytes()
    with tarfile.open(path) as file:
        last = file.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512 + 1024
    blocks = range(0, end, 512)
    lengths = {*range(0, end, 97), *blocks, *(block + 1 for block in blocks), end - 1}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            import_version(other, path)
        assert ("is cut off" if length >= 512 else "is not a tar") in str(caught.value), length
    path.write_bytes(content[:end])
    assert import_version(other, path).version == 1


def test_what_ends_without_its_end_is_refused_although_all_files_are_there(exported, other):
    content = exported.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    for end in (b"", bytes(511), bytes(512), bytes(1023)):
        with pytest.raises(ArtifactError, match="is cut off"):
            read_export(other, io.BytesIO(content + end), "bytes")
    for end in (b"x" * 512, b"x" * 1024):
        with pytest.raises(ArtifactError, match="has a damaged header"):
            read_export(other, io.BytesIO(content + end), "bytes")
    assert read_export(other, io.BytesIO(content + bytes(1024)), "bytes").version == 1


def raw_header(size, type, name="artifact/x"):
    info, _ = entry(name, type=type)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


class Endless(io.RawIOBase):
    """Begins with some bytes, goes on with the same byte for ever, and counts what is read."""

    def __init__(self, head, byte):
        self._head = io.BytesIO(head)
        self._byte = byte
        self.given = 0

    def read(self, size=-1):
        self.given += size
        return self._head.read(size) or self._byte * size


@pytest.mark.parametrize("byte", [b"1", b"\0"])
@pytest.mark.parametrize("type", [b"x", b"g", b"X", b"L", b"K", b"5", b"S"])
@pytest.mark.parametrize("size", [9000, 2**20, 10**12])
@pytest.mark.parametrize("before", [b"", raw_header(0, b"0")])
def test_headers_are_bounded_before_they_are_read(before, size, type, byte):
    file = Endless(before + raw_header(size, type, "artifact"), byte)
    with pytest.raises(ArtifactError):
        read_all(file)
    # a folder has no bytes, so what follows it is its end or damage
    assert file.given <= (20_000 if type != b"5" else 2_000_000)


@pytest.mark.parametrize("type", [b"x", b"g", b"L", b"K"])
def test_headers_of_headers_are_bounded(type):
    header = raw_header(0, type)
    file = Endless(header * 10_000, b"\0")
    with pytest.raises(ArtifactError, match="has headers of more than"):
        read_all(file)
    assert file.given <= 20_000


@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**40)])
@pytest.mark.parametrize("before", [b"", raw_header(512, b"0") + bytes(512)])
def test_a_tar_never_leads_backwards(size, before):
    after = raw_header(0, b"0") + bytes(2048)
    for type in (b"0", b"5", b"S"):
        with pytest.raises(ArtifactError):
            read_all(io.BytesIO(before + raw_header(size, type, "artifact") + after))
    for type in (b"x", b"g", b"L", b"K"):
        # whether these are empty or refused is up to the library; Python 3.11.14 refuses them
        with contextlib.suppress(ArtifactError):
            read_all(io.BytesIO(before + raw_header(size, type) + after))


def test_a_size_for_all_files_can_not_hide_what_follows(exported, other, tmp_path):
    path = tmp_path / "bad.tar"
    for size in (0, 3, 512, 513, 100_000):
        content = tarfile.TarInfo.create_pax_global_header({"size": str(size)})
        path.write_bytes(content + exported.read_bytes())
        before = snapshot(other)
        with pytest.raises(AdapterHubError):
            import_version(other, path)
        assert snapshot(other) == before


def test_folders_are_counted(other, tmp_path):
    path = tmp_path / "bad.tar"
    path.write_bytes(raw_header(0, b"5", "artifact") * 3000 + bytes(1024))
    refused(other, path, "has more than 1000 files")


def test_a_file_that_a_byte_of_is_changed_is_refused_or_means_the_same(
    exported, other, tmp_path, version, ada
):
    other.trust("ada", ada.pem)
    content = exported.read_bytes()
    path = tmp_path / "bad.tar"
    for offset in range(0, len(content), 41):
        flipped = bytearray(content)
        flipped[offset] ^= 0x11
        path.write_bytes(flipped)
        try:
            imported = import_version(other, path, name="topics")
        except AdapterHubError:
            continue
        # tags and what is kept beside a version are not under its digest
        assert imported.digest == version.digest
    assert other.verify() == ()


def test_a_damaged_header_is_refused(exported, other, tmp_path):
    content = bytearray(exported.read_bytes())
    with tarfile.open(exported) as file:
        second = file.getmembers()[1].offset
    # the mode says nothing here, and is under the header's sum all the same
    content[second + 105] ^= 1
    path = tmp_path / "bad.tar"
    path.write_bytes(content)
    refused(other, path, "has a damaged header")


def test_something_after_the_end_is_refused(exported, other, tmp_path):
    path = tmp_path / "bad.tar"
    path.write_bytes(exported.read_bytes() + b"hidden")
    refused(other, path, "has data after its end")
    path.write_bytes(exported.read_bytes() + bytes(2_000_000))
    refused(other, path, "has data after its end")
