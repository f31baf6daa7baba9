"""For the tests of signatures: two keys, a version, and its signature."""

import shutil

import pytest
from signing_helpers import key_pair

from adapterhub.registry.sigstore import sign

SIGN_STEPS = [
    "staged signature",
    "placed signature",
    "listed signature",
    "committed signature",
]


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("ada"), "ada")


@pytest.fixture(scope="module")
def eve(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("eve"), "eve")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("ADAPTERHUB_REQUIRE_SIGNED", "ADAPTERHUB_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def version(registry, artifact):
    return registry.put(artifact(), "topics")


@pytest.fixture
def signature(registry, version, ada):
    return sign(registry.materialize(version), ada.private)


@pytest.fixture
def copy(registry, version, tmp_path):
    """Return a copy of the artifact that can be changed."""
    folder = tmp_path / "a copy of it"
    shutil.copytree(registry.materialize(version), folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def put_signed(registry, folder, pair, name="topics"):
    version = registry.put(folder, name)
    registry.add_signature(version.ref, sign(registry.materialize(version), pair.private))
    return version


def blobs(registry):
    return sorted(path.name for path in (registry.folder / "blobs").rglob("*") if path.is_file())
