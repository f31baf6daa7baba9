"""What names mean to vLLM, and what it is refused, without vLLM itself."""

import asyncio
import json

import pytest
from hub.hub_server_helpers import running
from huggingface_hub import HfApi, constants
from integrations.vllm_doubles import TYPES, Failure, Models, Refusal
from registry.registry_helpers import (
    WEIGHTS,
    bundle,
    lora_config,
    make_artifact,
    weights_file,
)

from adapterhub.adapters.manifest import BackboneRef
from adapterhub.backbones.fingerprint import weights_fingerprint
from adapterhub.errors import NotFoundError, SettingsError
from adapterhub.hub.artifact_folders import RegistryFolders, open_registry
from adapterhub.hub.hub_folders import HubFolders
from adapterhub.integrations.vllm import FIRST_NUMBER, AdapterResolver, lora_number
from adapterhub.integrations.vllm_settings import read_settings
from adapterhub.refs import parse_ref
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec, PrefixSpec

POLL = 0.02
#: Changes that make the artifact one that generates text.
TEXT = {"task": "dialogue", "labels": ()}


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


@pytest.fixture
def put(registry, tmp_path):
    count = 0

    def put(weights="first", name="team/support", **changes):
        nonlocal count
        count += 1
        folder = make_artifact(tmp_path / "made" / str(count), weights, **TEXT | changes)
        return registry.put(folder, name)

    return put


@pytest.fixture
def resolver(registry):
    return AdapterResolver(RegistryFolders(registry), TYPES, poll_seconds=POLL)


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(POLL)
    raise AssertionError("it did not happen in ten seconds")


def refused(resolver, name, **options):
    """Return the message that a request for a name gets."""

    async def ask():
        with pytest.raises(Refusal) as caught:
            await Models(resolver, **options).resolve(name)
        return str(caught.value)

    return asyncio.run(ask())


def test_a_name_is_the_lora_of_its_digest(registry, put, resolver):
    version = put()
    registry.set_alias("team/support@1", "prod")

    async def ask():
        models = Models(resolver)
        return [
            await models.resolve(name)
            for name in ("team/support@prod", "team/support", f"team/support@{version.digest}")
        ]

    loras = asyncio.run(ask())
    assert len(set(loras)) == 1
    assert loras[0].lora_name == f"team/support@{version.digest}"
    assert loras[0].lora_int_id == lora_number(version.digest) >= FIRST_NUMBER
    assert loras[0].lora_path == str(registry.materialize(version))


@pytest.mark.parametrize("name", ["other", "team/support@canary", "Not A Name", "a@b@c"])
def test_an_unknown_name_is_left_to_other_resolvers(put, resolver, name):
    put()
    assert asyncio.run(Models(resolver).resolve(name)) is None


def test_a_moved_alias_is_loaded_before_requests_use_it(registry, put, resolver):
    first, second = put(), put("second")
    registry.set_alias("team/support@1", "prod")

    async def move():
        models = Models(resolver)
        old = await models.resolve("team/support@prod")
        pinned = await models.resolve("team/support@1")
        registry.set_alias("team/support@2", "prod")
        await until(lambda: models.lora_requests["team/support@prod"] != old)
        return models, old, pinned

    models, old, pinned = asyncio.run(move())
    new = models.lora_requests["team/support@prod"]
    assert old.lora_name.endswith(first.digest)
    assert new.lora_name.endswith(second.digest)
    assert models.loaded[-1] == new.lora_name
    assert new.lora_int_id != old.lora_int_id
    assert models.lora_requests["team/support@1"] is pinned


def test_an_alias_that_is_removed_is_unknown(registry, put, resolver):
    put()
    registry.set_alias("team/support@1", "prod")

    async def remove():
        models = Models(resolver)
        await models.resolve("team/support@prod")
        registry.remove_alias("team/support", "prod")
        await until(lambda: not models.lora_requests)
        return await models.resolve("team/support@prod")

    assert asyncio.run(remove()) is None


def test_an_alias_that_moves_to_what_cannot_be_served_is_refused(registry, put, resolver):
    put()
    put("wide", adapter=LoraSpec(rank=32, alpha=4.0, target_modules=("query",)))
    registry.set_alias("team/support@1", "prod")

    async def move():
        models = Models(resolver)
        await models.resolve("team/support@prod")
        registry.set_alias("team/support@2", "prod")
        await until(lambda: not models.lora_requests)
        with pytest.raises(Refusal, match="has rank 32, and vLLM allows 16"):
            await models.resolve("team/support@prod")

    asyncio.run(move())


def test_a_version_that_vllm_itself_rejects_is_not_kept(registry, put, resolver):
    put()
    put("second")
    registry.set_alias("team/support@1", "prod")

    async def move():
        models = Models(resolver)
        await models.resolve("team/support@prod")
        models.fails = True
        registry.set_alias("team/support@2", "prod")
        await until(lambda: not models.lora_requests)

    asyncio.run(move())


def test_names_are_forgotten_and_resolved_again(put, resolver, monkeypatch):
    put()
    monkeypatch.setattr("adapterhub.integrations.vllm.FORGET_SECONDS", 3 * POLL)

    async def wait():
        models = Models(resolver)
        before = await models.resolve("team/support")
        await until(lambda: not models.lora_requests)
        return before, await models.resolve("team/support")

    before, after = asyncio.run(wait())
    assert before == after


REFUSED = {
    "prefix": (
        {"adapter": PrefixSpec(num_virtual_tokens=3)},
        "is a prefix adapter, and vLLM serves LoRA alone. Serve it with adapterhub serve",
    ),
    "head": (
        {"task": "text-classification", "labels": ("good", "bad")},
        "has a head for text-classification, and vLLM would generate text without it. "
        "Serve it with adapterhub serve",
    ),
    "rank": (
        {"adapter": LoraSpec(rank=33, alpha=4.0, target_modules=("query",))},
        "has rank 33, and vLLM allows 16. Start vLLM with --max-lora-rank 64",
    ),
    "hub id": (
        {"backbone": BackboneRef(name="other", fingerprint="sha256:cd", hub_id="someone/other")},
        "was trained on someone/other, and vLLM serves someone/tiny. "
        "Send the request to a server of that model",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_vllm_cannot_serve_is_refused_in_a_sentence(put, resolver, kind):
    changes, message = REFUSED[kind]
    put(**changes)
    assert refused(resolver, "team/support@1") == f"team/support@1: {message}"


def test_features_that_vllm_would_ignore_are_refused(put, resolver):
    spec = LoraSpec(
        rank=2, alpha=4.0, target_modules=("query",), alora_invocation_tokens=(1,), bias="lora_only"
    )
    config = lora_config(alora_invocation_tokens=[1], bias="lora_only")
    files = {
        "adapter_config.json": config,
        WEIGHTS: weights_file("x", **{"base_model.model.query.base_layer.bias": [4]}),
    }
    put(adapter=spec, files=files)
    assert "uses biases and an activation sequence, which vLLM does not support" in refused(
        resolver, "team/support"
    )


def test_a_server_without_lora_says_so(put, resolver):
    put()
    assert "Start it with --enable-lora" in refused(resolver, "team/support", max_lora_rank=None)


def test_blends_are_refused(put, resolver):
    put()
    assert "is a blend" in refused(resolver, "team/support*0.5+team/support@1*0.5")


def test_the_fingerprint_decides_where_the_weights_are_known(put, resolver, decoder):
    weights = weights_fingerprint(decoder)
    put(backbone=BackboneRef(name="toy", fingerprint=f"{weights}+nf4", hub_id="someone/toy"))
    put(backbone=BackboneRef(name="toy", fingerprint="sha256:ab+nf4", hub_id="someone/toy"))
    assert "was trained on the backbone with fingerprint sha256:ab" in refused(
        resolver, "team/support@2", model=str(decoder)
    )
    models = Models(resolver, model=str(decoder))
    assert asyncio.run(models.resolve("team/support@1")) is not None


def test_unsigned_adapters_are_refused_from_the_moment_the_policy_is_on(registry, put, resolver):
    put()

    async def ask():
        models = Models(resolver)
        await models.resolve("team/support")
        registry.set_requires_signed(True)
        await until(lambda: not models.lora_requests)
        with pytest.raises(Refusal, match="is not signed, and only signed adapters are loaded"):
            await models.resolve("team/support")

    asyncio.run(ask())


def test_a_damaged_file_is_refused(registry, put, resolver):
    version = put()
    file = registry.materialize(version) / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(b"x" * file.stat().st_size)
    assert "adapter_model.safetensors" in refused(resolver, "team/support")


def test_two_adapters_with_one_number_are_never_confused(put, resolver, monkeypatch):
    put()
    put("second")
    monkeypatch.setattr("adapterhub.integrations.vllm.lora_number", lambda digest: 7)

    async def ask():
        models = Models(resolver)
        await models.resolve("team/support@1")
        with pytest.raises(Refusal, match="has the same number 7 as another adapter"):
            await models.resolve("team/support@2")

    asyncio.run(ask())


@pytest.fixture
def endpoint(tmp_path):
    with running(tmp_path / "home") as found:
        yield found


def hub_folders(endpoint, cache, **options):
    return HubFolders(HfApi(endpoint=endpoint.url, token=endpoint.writer), cache, **options)


def test_a_hub_is_followed_like_a_folder(endpoint, registry, put, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    put()
    put("second")
    registry.set_alias("team/support@1", "prod")
    folders = hub_folders(endpoint, tmp_path / "cache", owner="team")
    resolver = AdapterResolver(folders, TYPES, poll_seconds=POLL)

    async def ask():
        models = Models(resolver)
        old = await models.resolve("support@prod")
        assert await models.resolve("team/support") == old
        assert await models.resolve("support@7") is None
        registry.set_alias("team/support@2", "prod")
        await until(lambda: models.lora_requests["support@prod"] != old)
        return old, models.lora_requests["support@prod"], await models.resolve("support@2")

    old, new, second = asyncio.run(ask())
    assert new == second
    assert old.lora_name.endswith(registry.resolve("team/support@1").digest)
    for lora in (old, new):
        config = json.loads(
            (tmp_path / "cache" / lora.lora_path / "adapter_config.json").read_text()
        )
        assert config["r"] == 2
    # nothing is kept twice
    assert not list((tmp_path / "hf-cache").glob("models--*"))
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_hub_that_does_not_answer_is_no_unknown_name(tmp_path):
    folders = HubFolders(HfApi(endpoint="http://127.0.0.1:9", token=False), tmp_path / "cache")
    resolver = AdapterResolver(folders, TYPES, poll_seconds=POLL)
    with pytest.raises(Failure, match="cannot be reached"):
        asyncio.run(Models(resolver).resolve("team/support"))


def test_the_cache_is_verified_and_bounded(endpoint, registry, put, tmp_path, monkeypatch):
    versions = [put(str(number)) for number in range(3)]
    size = versions[0].size
    folders = hub_folders(endpoint, tmp_path / "cache", max_bytes=4 * size)

    def fetch(number):
        return folders.fetch(folders.resolve(parse_ref(f"team/support@{number}")))

    first, second = fetch(1), fetch(2)
    weights = first / "adapter_model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(b"x" * len(intact))
    assert fetch(1) == first
    assert weights.read_bytes() == intact
    small = hub_folders(endpoint, tmp_path / "cache", max_bytes=5 * size // 2)
    with pytest.raises(Exception, match="full of adapters that were used in the last 60 minutes"):
        small.fetch(small.resolve(parse_ref("team/support@3")))
    monkeypatch.setattr("adapterhub.hub.hub_folders.GRACE_SECONDS", 0.0)
    folders.keep(versions[0].digest)
    third = small.fetch(small.resolve(parse_ref("team/support@3")))
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def test_signatures_of_a_hub_are_checked_by_the_keys_of_this_machine(
    endpoint, registry, put, tmp_path
):
    version = put()
    registry.add_signature(version.ref, bundle("somebody"))
    folders = hub_folders(endpoint, tmp_path / "cache", trust=lambda: ())
    resolver = AdapterResolver(folders, TYPES)
    assert "is signed by no trusted key" in refused(resolver, "team/support")


def test_settings_come_from_the_environment(tmp_path):
    assert read_settings({}) is None
    settings = read_settings({"ADAPTERHUB_REGISTRY": "https://hub.example/team"})
    assert settings.is_url
    with pytest.raises(SettingsError, match="ADAPTERHUB_POLL_SECONDS"):
        read_settings({"ADAPTERHUB_REGISTRY": "x", "ADAPTERHUB_POLL_SECONDS": "often"})


def test_a_folder_is_a_registry_or_an_error(registry, tmp_path):
    assert open_registry(tmp_path / "home").folder == registry.folder
    assert open_registry(registry.folder).folder == registry.folder
    with pytest.raises(NotFoundError, match="contains no registry"):
        open_registry(tmp_path)
