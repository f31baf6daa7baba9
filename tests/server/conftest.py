"""A home of its own for each test, tiny backbones, and a server on loopback."""

import pytest
from http_server_helpers import running_server, store_adapters
from toy_fixtures import command, decoder, encoder, own_home

from adapterhub.registry import Registry

__all__ = ["command", "decoder", "encoder", "own_home"]


@pytest.fixture(scope="module")
def served(decoder, tmp_path_factory):
    """A server around the tiny decoder, with four adapters in its registry."""
    home = tmp_path_factory.mktemp("served")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    with running_server(decoder, registry) as served:
        yield served
