"""For the tests of archives: a signed version, its archive, and archives packed otherwise."""

import io
import tarfile
import zipfile

import pytest
from registry_helpers import WEIGHTS, make_artifact
from signature_fixtures import ada
from signing_helpers import snapshot

from adapterhub.errors import ArtifactError
from adapterhub.registry import Registry
from adapterhub.registry.archive.export import export_version
from adapterhub.registry.archive.intake import import_version
from adapterhub.registry.archive.members import read_members
from adapterhub.registry.sigstore import sign

__all__ = ["ada"]

NAMES = ["README.md", "adapter_config.json", WEIGHTS]


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
    """Return an entry whose name and size are overridden in an extended header."""
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


def read_all(file):
    return [(found.name, b"".join(found.chunks)) for found in read_members(file, "bytes")]
