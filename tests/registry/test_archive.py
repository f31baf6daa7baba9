"""One file to carry: what comes out goes in again, and nothing else does."""

import contextlib
import errno
import io
import itertools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import registry_helpers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_helpers import WEIGHTS, make_artifact
from signing_helpers import changed, key_pair, snapshot
from test_faults import open_folder, ordinary_user
from toy_fixtures import command

import adapterhub.artifact
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    IntegrityError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
)
from adapterhub.registry import Registry, archive_reading, exporting, importing, whole_file
from adapterhub.registry.archive_reading import Entry, read_archive
from adapterhub.registry.exporting import export_version
from adapterhub.registry.importing import import_version, read_export
from adapterhub.registry.signature_file import signature_name
from adapterhub.registry.signing import sign

__all__ = ["command", "open_folder"]

NAMES = ["README.md", "adapter_config.json", WEIGHTS]
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


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("ada"), "ada")


@pytest.fixture
def version(registry, artifact, ada):
    version = registry.put(artifact(), "topics", info={"seconds": 1.5, "näme": ["x"]})
    registry.add_signature(version.ref, sign(registry.materialize(version), ada.private))
    return registry.tag("topics", add=["lang:en", "best"])


@pytest.fixture
def exported(registry, version, tmp_path):
    target = tmp_path / "topics.tar"
    export_version(registry, "topics", target)
    return target


@pytest.fixture
def other(tmp_path):
    """Return another registry that holds something."""
    registry = Registry(tmp_path / "other")
    registry.put(make_artifact(tmp_path / "held", "held"), "held")
    return registry


def members(path):
    with tarfile.open(path) as file:
        return {info.name: file.extractfile(info).read() for info in file}


def entry(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def extended(fields):
    """Return an entry whose name and size are told anew in an extended header."""
    return entry("artifact/x", b"x", pax_headers=fields)


def pack(path, entries, format=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=format) as file:
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    return path


def repack(path, contents):
    return pack(path, [entry(name, content) for name, content in contents.items()])


def pack_zip(path, contents, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content, **options)
    return path


def refused(registry, path, said, kind=ArtifactError, **options):
    before = snapshot(registry)
    with pytest.raises(kind) as caught:
        import_version(registry, path, **options)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert snapshot(registry) == before
    assert list((registry.folder / "staging").iterdir()) == []


# --- there and back ---


def test_a_version_arrives_with_its_tags_and_signatures(registry, version, exported, other):
    arrived = import_version(other, exported)
    assert (arrived.name, arrived.version, arrived.digest) == ("topics", 1, version.digest)
    assert (arrived.tags, arrived.info) == (version.tags, version.info)
    assert other.signatures(arrived) == registry.signatures(version) != ()
    there, here = other.materialize(arrived), registry.materialize(version)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in here.iterdir()
    }
    assert other.verify() == ()


def test_importing_again_changes_nothing(exported, other):
    first = import_version(other, exported)
    rows, files = snapshot(other)
    again = import_version(other, exported)
    assert again == first
    assert snapshot(other)[1] == files
    after = {**snapshot(other)[0], "signatures": rows["signatures"]}
    assert after == rows


def test_importing_adds_what_is_new_and_restores_what_is_damaged(
    registry, version, exported, other
):
    held = other.put(registry.materialize(version), "topics", info={"mine": True}, tags=["own"])
    blob = other.materialize(held) / WEIGHTS
    blob.chmod(0o644)
    blob.write_text("firsT")
    with pytest.raises(IntegrityError):
        other.materialize(held)
    arrived = import_version(other, exported)
    assert arrived.version == held.version
    assert arrived.tags == ("best", "lang:en", "own")
    assert arrived.info == {"mine": True}
    assert len(other.signatures(arrived)) == 1
    assert other.verify() == ()
    assert (other.materialize(arrived) / WEIGHTS).read_text() == "first"


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
    assert (tmp_path / "out/artifact" / WEIGHTS).read_text() == "first"


def test_names_as_long_as_they_may_be(registry, other, tmp_path):
    files = {"a" * 128: b"one", "b" * 92: b"two", "c" * 91: b"three"}
    version = registry.put(make_artifact(tmp_path / "long", "w", files=files), "long")
    export_version(registry, "long", tmp_path / "long.tar")
    arrived = import_version(other, tmp_path / "long.tar")
    assert arrived.digest == version.digest


def test_a_large_file_and_an_empty_one(registry, other, tmp_path):
    content = "0123456789abcdef" * 200_000
    folder = make_artifact(tmp_path / "large", content, files={"empty.txt": b""})
    export_version(registry, registry.put(folder, "large").ref, tmp_path / "large.tar")
    arrived = import_version(other, tmp_path / "large.tar")
    assert (other.materialize(arrived) / WEIGHTS).read_text() == content


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("layout", ["export", "artifact", "bare"])
def test_what_others_packed_of_the_same_files_is_read(
    registry, version, exported, other, tmp_path, kind, layout
):
    contents = members(exported)
    if layout != "export":
        del contents["export.json"]
    if layout == "bare":
        contents = {name.split("/")[1]: content for name, content in contents.items()}
    path = tmp_path / "packed"
    if kind == "tar":
        repack(path, contents)
    else:
        folders = {"artifact/": b"", "signatures/": b""} if layout != "bare" else {}
        pack_zip(path, {**folders, **contents})
    if layout != "export":
        refused(other, path, "Give one with --name", RefError)
    arrived = import_version(other, path, name=None if layout == "export" else "topics")
    assert arrived.digest == version.digest
    assert other.signatures(arrived) == registry.signatures(version)


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


def test_the_bound_is_that_of_reading_an_artifact():
    assert archive_reading.MAX_BYTES == adapterhub.artifact.MAX_BYTES


# --- what may not be in an archive ---


KEY_NAME = "signatures/0123456789abcdef.sig"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (entry("artifact/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a symbolic link"),
        (entry("artifact/x", type=tarfile.LNKTYPE, linkname="../y"), "is a hard link"),
        (entry("artifact/x", type=tarfile.CHRTYPE), "is a device"),
        (entry("artifact/x", type=tarfile.BLKTYPE), "is a device"),
        (entry("artifact/x", type=tarfile.FIFOTYPE), "is a pipe"),
        (entry("artifact/x", type=tarfile.GNUTYPE_SPARSE), "is a sparse file"),
        (entry("artifact/x", type=tarfile.CONTTYPE), "unknown kind"),
        (entry("artifact/x", type=b"V"), "unknown kind"),
        (entry("artifact/x", type=tarfile.DIRTYPE), "is a folder"),
        (extended({"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}), "is a sparse file"),
        (extended({"path": "../x"}), "leaves its folder"),
        (extended({"path": "artifact/a\0b"}), "holds a control character"),
        (extended({"path": "artifact/" + "a" * 600}), "has a name of 609 characters"),
        (extended({"size": "-512"}), "has a size below 0"),
        (extended({"size": str(10**12)}), "is larger than what is read"),
        (extended({"x": "y" * 9000}), "has headers of more than 8192 bytes for one file"),
        (entry("artifact/" + "a" * 9000), "has headers of more than 8192 bytes for one file"),
        (entry("/etc/passwd", b"x"), "is an absolute path"),
        (entry("\\\\server\\x", b"x"), "is an absolute path"),
        (entry("C:x", b"x"), "is an absolute path"),
        (entry("../x", b"x"), "leaves its folder"),
        (entry("artifact/../../x", b"x"), "leaves its folder"),
        (entry("artifact\\..\\x", b"x"), "leaves its folder"),
        (entry("artifact/a\nb", b"x"), "holds a control character"),
        (entry("artifact/\x1b[2J", b"x"), "holds a control character"),
        (entry("artifact/\x7f", b"x"), "holds a control character"),
        (entry("artifact/sub/x", b"x"), "is no file of an export"),
        (entry("./export.json", b"x"), "is no file of an export"),
        (entry("artifact//x", b"x"), "is no file of an export"),
        (entry("x.txt", b"x"), "is no file of an export"),
        (entry("artifact/ü", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/.hidden", b"x"), "cannot be a file of an artifact"),
        (entry("artifact/" + "a" * 129, b"x"), "cannot be a file of an artifact"),
        (entry("artifact/" + "a" * 600, b"x"), "has a name of"),
        (entry("artifact/weights.bin", b"x"), "is a pickle"),
        (entry("weights.PT", b"x"), "is a pickle"),
        (entry("signatures/key.pem", b"x"), "is no file of an export"),
        (entry(f"artifact/{WEIGHTS}", b"first"), "is there twice"),
        (entry("export.json", b"{}"), "is there twice"),
        (entry("artifact/extra.txt", b"x"), "is not listed in manifest.json"),
        (entry(KEY_NAME, b"x" * 70_000), "is larger than what is read"),
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
    refused(other, repack(tmp_path / "bad.tar", contents), "is no signature", SignatureError)


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
    refused(other, path, "does not hold", SignatureError)
    other.distrust("ada")
    assert import_version(other, path).version == 1


@pytest.mark.parametrize(
    ("change", "said", "kind"),
    [
        ({"digest": "sha256:" + "0" * 64}, "export.json says sha256:0000", ArtifactError),
        ({"digest": "md5:1"}, "must be 'sha256:' and 64 hex digits", ArtifactError),
        ({"format": 2}, "Upgrade adapterhub", ArtifactError),
        ({"format": None}, "Upgrade adapterhub", ArtifactError),
        ({"name": "../x"}, "holds '..'", RefError),
        ({"name": "a\nb"}, "control character", RefError),
        ({"name": 7}, "must be text", ArtifactError),
        ({"tags": ["No Tag"]}, "is no tag", RefError),
        ({"tags": ["a", "a"]}, "has the tag 'a' twice", ArtifactError),
        ({"tags": "a"}, "must be a list", ArtifactError),
        ({"info": []}, "must be an object", ArtifactError),
        ({"info": json.loads('{"a":' * 40 + "1" + "}" * 40)}, "nested deeper", ArtifactError),
        ({"version": -1}, "must be 0 or more", ArtifactError),
        ({"more": 1}, "is an unknown key", ArtifactError),
        ({"info": {"x": "y" * 1_100_000}}, "is larger than", ArtifactError),
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
    refused(other, repack(tmp_path / "bad.tar", contents), "plain JSON", RegistryError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"artifact/{WEIGHTS}": b"firsT"}, "has the sha256"),
        ({f"artifact/{WEIGHTS}": b"longer"}, "says 5"),
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
    many = {f"artifact/{number}": b"" for number in range(archive_reading.MAX_FILES + 1)}
    refused(other, repack(tmp_path / "bad.tar", many), "has more than 1000 files")


def test_sizes_are_refused_before_they_are_written(other, tmp_path, monkeypatch):
    info, _ = entry("artifact/x")
    info.size = archive_reading.MAX_BYTES + 1
    path = tmp_path / "bad.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is larger than what is read")
    info.size = 10**12
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is larger than what is read")
    info.size = 17 * 1024**2
    info.name = "artifact/manifest.json"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(other, path, "is larger than what is read")


def test_the_sum_of_the_sizes_is_bounded(exported, other, tmp_path, monkeypatch):
    size = sum(len(content) for content in members(exported).values())
    monkeypatch.setattr(importing, "MAX_BYTES", size - 1)
    refused(other, exported, "is larger than what is read")
    monkeypatch.setattr(importing, "MAX_BYTES", size)
    assert import_version(other, exported).version == 1


def test_what_could_not_be_imported_is_not_exported(registry, version, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_BYTES", 100)
    with pytest.raises(RegistryError, match="larger than what can be imported"):
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
    refused(other, tmp_path / "pipe", "is no tar or zip file")
    refused(other, Path("/dev/zero"), "has something after its end")


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
        assert ("is cut off" if length >= 512 else "is no tar") in str(caught.value), length
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
            arrived = import_version(other, path, name="topics")
        except AdapterHubError:
            continue
        # tags and what is kept beside a version are not under its digest
        assert arrived.digest == version.digest
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
    refused(other, path, "has something after its end")
    path.write_bytes(exported.read_bytes() + bytes(2_000_000))
    refused(other, path, "has something after its end")


# --- zip files ---


def test_a_zip_bomb_is_counted_and_not_trusted(exported, other, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "MAX_BYTES", 1_000_000)
    path = pack_zip(tmp_path / "bad.zip", {"artifact/x": bytes(50_000_000)})
    refused(other, path, "is larger than what is read")
    # and one whose headers say that it is small
    content = path.read_bytes().replace((50_000_000).to_bytes(4, "little"), b"\x05\0\0\0")
    path.write_bytes(content)
    before = snapshot(other)
    with pytest.raises(ArtifactError):
        import_version(other, path, name="x")
    assert snapshot(other) == before


def test_bytes_are_counted_whatever_the_reader_says(exported, other, monkeypatch):
    def lie(*_):
        yield Entry("artifact/x", 5, itertools.repeat(bytes(500)))

    monkeypatch.setattr(importing, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(importing, "read_archive", lie)
    refused(other, exported, "is larger than what is read")


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
    refused(other, path, "holds a control character")


def test_a_name_twice_in_a_zip_file_is_refused(exported, other, tmp_path):
    path = pack_zip(tmp_path / "bad.zip", {**members(exported), "artifact/READMEXmd": b"x"})
    path.write_bytes(path.read_bytes().replace(b"READMEXmd", b"README.md"))
    refused(other, path, "is there twice")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (stat.S_IFLNK | 0o777, "is a symbolic link"),
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
    refused(other, path, "'artifact/x' is encrypted. Pack it without")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_ways_to_compress_are_refused(exported, other, tmp_path, method):
    path = pack_zip(tmp_path / "bad.zip", members(exported), compress_type=method)
    refused(other, path, "compressed in a way that is not read")


def test_a_zip_file_with_a_huge_table_or_a_comment_is_refused(exported, other, tmp_path):
    path = tmp_path / "bad.zip"
    pack_zip(path, {f"artifact/{number:0>100}": b"" for number in range(10_000)})
    refused(other, path, "has too large a table of contents")
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
                arrived = import_version(other, path, name="topics")
            except AdapterHubError:
                continue
            assert arrived.digest == version.digest
    assert other.verify() == ()


def read_all(file):
    return [(found.name, b"".join(found.chunks)) for found in read_archive(file, "bytes")]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_bytes_at_random_are_one_clear_error(content, magic):
    with pytest.raises(ArtifactError):
        read_all(io.BytesIO(magic + b"\x01" + content))


FILES = st.lists(st.tuples(st.text("abXY.-_ü/ ", min_size=1, max_size=130), st.binary()))


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


# --- disks and kills ---


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
    rows, _ = snapshot(other)
    assert kill("import", other.folder.parent, step, exported) == 77
    after = Registry(other.folder.parent)
    if step == "committed":
        assert after.resolve("topics").tags == version.tags
    else:
        assert snapshot(after)[0] == rows
    assert after.verify() == ()
    arrived = import_version(after, exported)
    assert (arrived.version, arrived.tags) == (1, version.tags)
    assert len(after.signatures(arrived)) == 1
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
    real, calls = whole_file.fcntl.flock, []

    def late(file, operation):
        if not calls:
            calls.append(operation)
            whole_file._remove_abandoned(tmp_path / "topics.tar")
            assert not list(tmp_path.glob(".*.partial"))
        real(file, operation)

    monkeypatch.setattr(whole_file.fcntl, "flock", late)
    export_version(registry, "topics", tmp_path / "topics.tar")
    assert tarfile.is_tarfile(tmp_path / "topics.tar")
    assert not list(tmp_path.glob(".*"))


def test_without_locks_nothing_is_taken_for_abandoned(registry, version, tmp_path, monkeypatch):
    assert kill("export", tmp_path / "home", "written", tmp_path / "topics.tar") == 77
    monkeypatch.setattr(whole_file.fcntl, "flock", lambda *_: _raise(errno.ENOLCK))
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


# --- the command line ---


def test_to_a_machine_without_a_network(command, registry, version, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert "exported topics@1" in command("export", "topics", "topics.tar").stdout
    told = json.loads(command("export", "topics", "topics.tar", "--force", "--json").stdout)
    content = Path("topics.tar").read_bytes()
    assert (told["size"], told["sha256"]) == (len(content), sha256(content).hexdigest())
    again = command("export", "topics", "topics.tar")
    assert (again.exit_code, b"--force" in again.stderr_bytes) == (1, True)
    assert command("export", "topics", "-").stdout_bytes == content
    assert command("export", "topics", "-", "--json").exit_code == 2

    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "elsewhere"))
    arrived = json.loads(command("import", "topics.tar", "--json").stdout)
    assert arrived == {
        "ref": "topics@1",
        "digest": version.digest,
        "signatures": told["signatures"],
        "tags": ["best", "lang:en"],
        "size": version.size,
    }
    assert "stored as desk@1" in command("import", "topics.tar", "--name", "desk").stdout
    assert "stored as topics@1" in command("import", "-", stdin=content).stdout
    Path("bad.tar").write_bytes(content[:2000])
    bad = command("import", "bad.tar")
    assert (bad.exit_code, b"is cut off" in bad.stderr_bytes) == (5, True)
    assert command("import", "absent.tar").exit_code == 4
