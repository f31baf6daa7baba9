"""One memory budget of a server, divided among its engines."""

import pytest
from http_server_helpers import UNQUANTIZED

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.engine.lora_linear import LoraLinear
from adapterhub.errors import SettingsError
from adapterhub.server.memory_budget import MIN_HOST_BYTES, cache_bytes, divide, table_bytes
from adapterhub.server.settings import ServerSettings

SIZES = {"kv_cache_tokens": 1000, "host_cache_bytes": 2**30}


@pytest.fixture(scope="module")
def decoder_backbone(decoder):
    return load_backbone(str(decoder), UNQUANTIZED)


@pytest.fixture(scope="module")
def encoder_backbone(encoder):
    return load_backbone(str(encoder), UNQUANTIZED)


def test_one_backbone_gets_everything(decoder_backbone):
    settings = ServerSettings(**SIZES)
    assert divide(settings, [decoder_backbone]) == [settings.engine()]


def test_the_kv_cache_is_for_those_that_generate_and_host_memory_for_all(
    decoder_backbone, encoder_backbone
):
    settings = ServerSettings(**SIZES)
    found = divide(settings, [decoder_backbone, encoder_backbone, decoder_backbone])
    # whole blocks of 16 tokens
    assert {each.kv_cache_tokens for each in found} == {496}
    assert {each.host_cache_bytes for each in found} == {2**30 // 3}
    assert divide(settings, [decoder_backbone, encoder_backbone])[0].kv_cache_tokens == 1000


def test_a_kv_cache_of_less_than_a_block_each_is_refused(decoder_backbone):
    settings = ServerSettings(kv_cache_tokens=24)
    with pytest.raises(SettingsError, match=r"kv_cache_tokens: 24 .*Give at least 32"):
        divide(settings, [decoder_backbone, decoder_backbone])


def test_adapters_get_what_weights_and_kv_caches_leave(decoder_backbone, encoder_backbone):
    both = [decoder_backbone, encoder_backbone]
    taken = sum(each.memory_bytes + table_bytes(each, 512) for each in both)
    taken += cache_bytes(decoder_backbone, 1000)
    left = 3 * MIN_HOST_BYTES
    found = divide(ServerSettings(**SIZES, memory_bytes=taken + left), both)
    assert {each.host_cache_bytes for each in found} == {left // 2}
    with pytest.raises(
        SettingsError, match=r"memory_bytes: .* MiB are less than the .* MiB of"
    ) as e:
        divide(ServerSettings(**SIZES, memory_bytes=taken + 2 * MIN_HOST_BYTES - 1), both)
    assert all(each.name in str(e.value) for each in both)


def test_the_engine_takes_what_is_counted(decoder_backbone):
    settings = ServerSettings(kv_cache_tokens=1024, rank_slots=64)
    counted = table_bytes(decoder_backbone, 64)
    engine = Engine(decoder_backbone, settings.engine())
    try:
        # one more block for inert sequences
        block = cache_bytes(decoder_backbone, settings.block_size)
        assert engine.stats().cache_bytes == cache_bytes(decoder_backbone, 1024) + block
        layers = [each for each in engine.core.layers.all if isinstance(each, LoraLinear)]
        assert sum(each.a.nbytes + each.b.nbytes for each in layers) == counted
    finally:
        engine.close()
