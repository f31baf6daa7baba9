import pytest
from hub_client_helpers import CONFIG
from hub_server_helpers import running
from huggingface_hub import constants
from registry.registry_helpers import make_artifact

from adapterhub.registry import Registry


@pytest.fixture
def hub_endpoint(tmp_path):
    with running(tmp_path / "home") as endpoint:
        yield endpoint


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keep what the client caches, and its token, away from the user's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf-token"))


@pytest.fixture
def here(tmp_path, own_cache):
    return Registry(tmp_path / "here")


@pytest.fixture
def there(tmp_path, own_cache):
    return Registry(tmp_path / "there")


@pytest.fixture
def put(here, tmp_path):
    count = 0

    def store(weights="first", name="fruit", **options):
        nonlocal count
        count += 1
        folder = make_artifact(
            tmp_path / "made" / str(count),
            weights,
            files={"adapter_config.json": CONFIG, **options.pop("files", {})},
            **options,
        )
        return here.put(folder, name)

    return store
