"""Backbones that are unloaded while idle, come back for a request, or crash."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_server_helpers import random_lora, running_server, store, store_adapters

from adapterhub.errors import BackboneError
from adapterhub.registry import Registry

LONG = {"model": "alpha", "prompt": "the film", "max_tokens": 200, "ignore_eos": True}
SHORT = {"prompt": "the film", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def pair(decoder, encoder, tmp_path_factory):
    """A server with a decoder and an encoder."""
    home = tmp_path_factory.mktemp("pair")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    with running_server([decoder, encoder], registry) as served:
        yield served


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.01)


def state(served, name):
    models = served.request("GET", "/v1/models").json()["data"]
    return next(each["state"] for each in models if each["id"] == name)


def unload(served, name):
    return served.post("/v1/backbones/unload", {"model": name})


def complete(served, model, **changes):
    return served.post("/v1/completions", {**SHORT, "model": model, **changes})


def test_an_unloaded_backbone_frees_its_memory_and_answers_again(pair, decoder):
    before = complete(pair, "alpha").json()["choices"]
    weights = weakref.ref(pair.backbone.base_model)
    assert unload(pair, decoder.name).json()["state"] == "unloaded"
    gc.collect()
    assert weights() is None
    assert state(pair, decoder.name) == "unloaded"
    for path in ("/v1/models", "/v1/adapters", "/v1/stats", "/metrics", "/ready"):
        assert pair.request("GET", path).status_code == 200
    # looking does not load it
    assert state(pair, decoder.name) == "unloaded"
    text = pair.request("GET", "/metrics").text
    assert f'adapterhub_backbone_loaded{{backbone="{decoder.name}"}} 0.0' in text
    assert complete(pair, "alpha").json()["choices"] == before
    assert state(pair, decoder.name) == "loaded"
    text = pair.request("GET", "/metrics").text
    assert f'adapterhub_backbone_loaded{{backbone="{decoder.name}"}} 1.0' in text
    seconds = f'adapterhub_backbone_load_seconds{{backbone="{decoder.name}"}} '
    assert float(text.partition(seconds)[2].split()[0]) > 0


def test_running_requests_finish_before_an_unload(pair, decoder):
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(pair.post, "/v1/completions", LONG)
        until(lambda: pair.stats().running == 1)
        unloading = pool.submit(unload, pair, decoder.name)
        until(lambda: state(pair, decoder.name) == "unloading")
        later = pool.submit(complete, pair, "beta")
        assert running.result().json()["usage"]["completion_tokens"] == 200
        assert unloading.result().status_code == 200
        assert later.result().status_code == 200
    assert state(pair, decoder.name) == "loaded"


def test_many_requests_load_a_backbone_once(pair, decoder, monkeypatch):
    unload(pair, decoder.name)
    served = pair.server.backbones.named(decoder.name)
    loads, load_weights = [], served._load_weights

    def recorded():
        loads.append(threading.current_thread())
        return load_weights()

    monkeypatch.setattr(served, "_load_weights", recorded)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: complete(pair, "alpha"), range(6)))
    assert {each.status_code for each in answers} == {200}
    assert len(loads) == 1


def test_adapters_that_were_loaded_explicitly_come_back_with_their_backbone(
    pair, decoder, tmp_path
):
    folder = tmp_path / "folder"
    scratch = Registry(tmp_path / "other")
    fingerprint = pair.server.backbones.named(decoder.name).fingerprint
    store(scratch, folder, "loose", random_lora(40), fingerprint)
    body = {"lora_name": "loose", "lora_path": str(folder)}
    assert pair.post("/v1/load_lora_adapter", body).status_code == 200
    assert pair.post("/v1/adapters/pin", {"ref": "beta@1"}).json()["pinned"]
    before = complete(pair, "loose").json()["choices"]
    unload(pair, decoder.name)
    assert complete(pair, "loose").json()["choices"] == before
    assert pair.server.backbones.named(decoder.name).pinned == {pair.digest("beta")}
    assert pair.engine._engine.pinned == {pair.digest("beta")}
    # an adapter may also be unloaded while its backbone is not there
    unload(pair, decoder.name)
    assert pair.post("/v1/unload_lora_adapter", {"lora_name": "loose"}).status_code == 200
    assert complete(pair, "loose").status_code == 404
    pair.post("/v1/adapters/pin", {"ref": "beta@1", "pinned": False})


def test_what_cannot_be_loaded_again_is_an_error_and_the_others_answer(
    pair, decoder, encoder, monkeypatch
):
    unload(pair, decoder.name)
    served = pair.server.backbones.named(decoder.name)
    encoder_backbone = pair.server.backbones.named(encoder.name)
    # as if the files of the folder had been replaced
    monkeypatch.setattr(served, "_load_weights", encoder_backbone._load_weights)
    refused = complete(pair, "alpha")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_loaded")
    assert "have changed" in refused.text
    body = {"model": encoder.name, "input": "the film"}
    assert pair.post("/v1/embeddings", body).status_code == 200
    monkeypatch.undo()
    assert complete(pair, "alpha").status_code == 200


def test_an_unknown_backbone_is_not_unloaded(pair):
    refused = unload(pair, "alpha")
    assert (refused.status_code, "not a backbone" in refused.text) == (404, True)


def test_a_crashed_engine_ends_its_own_requests_alone_and_comes_back(pair, decoder, encoder):
    encoded = {"model": encoder.name, "input": "the film"}
    vector = pair.post("/v1/embeddings", encoded).json()["data"]
    before = complete(pair, "alpha").json()["choices"]
    crashed = pair.engine
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(pair.post, "/v1/completions", LONG)
        until(lambda: pair.stats().running == 1)

        def fault():
            raise SystemExit("the thread ends")

        crashed._engine.step = fault
        assert running.result(30).status_code == 500
    assert crashed.crashed
    assert pair.post("/v1/embeddings", encoded).json()["data"] == vector
    # a request, or else the upkeep, starts the engine again
    assert complete(pair, "alpha").json()["choices"] == before
    assert pair.engine is not crashed
    assert pair.request("GET", "/ready").status_code == 200


def test_a_server_whose_engine_cannot_start_again_is_not_ready_until_it_can(
    pair, decoder, monkeypatch
):
    monkeypatch.setattr("adapterhub.server.upkeep.RETRY", 0.1)
    crashed = pair.engine
    served = pair.server.backbones.named(decoder.name)

    def broken():
        raise BackboneError("the disk is gone")

    def fault():
        raise SystemExit("the thread ends")

    with monkeypatch.context() as patched:
        patched.setattr(served, "_load_weights", broken)
        crashed._engine.step = fault
        assert complete(pair, "alpha").status_code == 500
        until(lambda: pair.request("GET", "/ready").status_code == 503)
        refused = complete(pair, "alpha")
        assert (refused.status_code, "the disk is gone" in refused.text) == (503, True)
    # without a request
    until(lambda: state(pair, decoder.name) == "loaded")
    assert pair.request("GET", "/ready").status_code == 200
    assert pair.engine is not crashed


def test_an_idle_backbone_is_unloaded_after_the_time_of_the_settings(decoder, encoder, tmp_path):
    registry = Registry(tmp_path / "registry")
    with running_server([decoder, encoder], registry, unload_idle=0.4) as served:
        until(lambda: state(served, encoder.name) == "unloaded")
        answer = complete(served, decoder.name)
        assert answer.status_code == 200
        until(lambda: state(served, decoder.name) == "unloaded")
