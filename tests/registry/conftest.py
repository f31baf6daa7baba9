import pytest
from registry_helpers import make_artifact

from adapterhub.registry import Registry


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


@pytest.fixture
def artifact(tmp_path):
    """Return a function that makes an artifact folder with the given weights."""
    count = 0

    def make(weights="first", **changes):
        nonlocal count
        count += 1
        return make_artifact(tmp_path / "artifacts" / str(count), weights, **changes)

    return make
