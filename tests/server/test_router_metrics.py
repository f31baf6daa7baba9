"""Metrics under vLLM's names, as routers parse them."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_server_helpers import running_server, store_adapters
from prometheus_client.parser import text_string_to_metric_families

from adapterhub.access import open_keys
from adapterhub.registry import Registry

LONG = {"prompt": "the film", "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def single(decoder, tmp_path_factory):
    """A server in which one sequence runs at a time."""
    home = tmp_path_factory.mktemp("single")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    with running_server(decoder, registry, max_num_seqs=1, max_inflight=1) as served:
        yield served


def samples(served, **options):
    """Return the only sample of each of vLLM's metrics."""
    text = served.request("GET", "/metrics", **options).text
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("vllm:"):
            (found[family.name],) = family.samples
    return found


def names(sample, label):
    return set(filter(None, sample.labels[label].split(",")))


def counts(found):
    return [found[f"vllm:num_requests_{state}"].value for state in ("running", "waiting")]


def test_an_idle_server_has_no_adapters_and_room_for_many(single):
    found = samples(single)
    assert found["vllm:num_requests_running"].value == 0
    assert found["vllm:num_requests_waiting"].value == 0
    assert found["vllm:kv_cache_usage_perc"].value == 0
    assert found["vllm:num_requests_running"].labels == {"model_name": single.base}
    info = found["vllm:lora_requests_info"]
    assert set(info.labels) == {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    assert names(info, "running_lora_adapters") == names(info, "waiting_lora_adapters") == set()
    assert int(info.labels["max_lora"]) >= 32
    assert abs(info.value - time.time()) < 60


def test_running_and_waiting_adapters_are_named_as_in_their_requests(single, monkeypatch):
    engine = single.engine._engine
    step = engine.step

    def slow_step():
        time.sleep(0.02)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    models = ["alpha@prod", "beta", single.base]
    with ThreadPoolExecutor(3) as pool:
        bodies = ({**LONG, "model": model} for model in models)
        answers = [pool.submit(single.post, "/v1/completions", body) for body in bodies]
        end = time.monotonic() + 20
        while counts(found := samples(single)) != [1, 2]:
            assert time.monotonic() < end, counts(found)
        info = found["vllm:lora_requests_info"]
        adapters = [names(info, f"{place}_lora_adapters") for place in ("running", "waiting")]
        assert 0 < found["vllm:kv_cache_usage_perc"].value < 1
        # one of the three runs, and the base model is no adapter
        assert adapters[0] | adapters[1] == {"alpha@prod", "beta"}
        assert not adapters[0] & adapters[1]
        limited = open_keys(single.server.registry).create("limited", adapters=["beta"])
        headers = {"Authorization": f"Bearer {limited}"}
        info = samples(single, headers=headers)["vllm:lora_requests_info"]
        shown = names(info, "running_lora_adapters") | names(info, "waiting_lora_adapters")
        assert shown <= {"beta"}
        monkeypatch.undo()
        assert all(each.result().status_code == 200 for each in answers)


def test_several_backbones_have_one_series(decoder, encoder, tmp_path):
    registry = Registry(tmp_path / "registry")
    with running_server([decoder, encoder], registry) as served:
        found = samples(served)
        assert len(found) == 4
        label = found["vllm:num_requests_running"].labels["model_name"]
        assert label == f"{decoder.name},{encoder.name}"
