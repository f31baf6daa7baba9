import pytest
from hub_server_helpers import running


@pytest.fixture
def hub_endpoint(tmp_path):
    with running(tmp_path / "home") as endpoint:
        yield endpoint
