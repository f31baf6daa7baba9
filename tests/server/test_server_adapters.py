"""Adapters that come and go while the server runs, and what is counted."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from http_server_helpers import random_lora, store

from adapterhub.adapters.weights import AdapterWeights

CHAT = {"messages": [{"role": "user", "content": "the film"}], "max_tokens": 2}


def entry(served, ref):
    data = served.request("GET", "/v1/adapters").json()["data"]
    return next(each for each in data if each["ref"] == ref)


def test_a_request_brings_an_adapter_from_disk_to_the_device(served, tmp_path):
    store(
        served.server.registry,
        tmp_path / "fresh",
        "fresh",
        random_lora(20),
        served.backbone.fingerprint,
    )
    assert entry(served, "fresh@1")["residency"] == "disk"
    assert served.post("/v1/chat/completions", {"model": "fresh", **CHAT}).status_code == 200
    found = entry(served, "fresh@1")
    assert found["residency"] == "device"
    assert found["metrics"] == {"loss": 2.0}


def test_a_name_refers_to_an_adapter_until_it_is_unloaded(served):
    loaded = served.post("/v1/adapters/load", {"ref": "beta", "name": "mine"}).json()
    assert loaded["digest"] == served.digest("beta")
    assert "mine" in entry(served, "beta@1")["loaded_as"]
    answer = served.post("/v1/chat/completions", {"model": "mine", **CHAT})
    assert answer.headers["x-adapter-digest"] == loaded["digest"]
    assert served.post("/v1/adapters/unload", {"name": "mine"}).status_code == 200
    assert served.post("/v1/chat/completions", {"model": "mine", **CHAT}).status_code == 404


def test_vllms_routes_respond_as_in_vllm(served):
    body = {"lora_name": "other", "lora_path": "alpha"}
    answer = served.post("/v1/load_lora_adapter", body)
    assert (answer.status_code, answer.text) == (
        200,
        "Success: LoRA adapter 'other' added successfully.",
    )
    assert served.post("/v1/load_lora_adapter", body).status_code == 400
    assert served.post("/v1/chat/completions", {"model": "other", **CHAT}).status_code == 200
    answer = served.post("/v1/unload_lora_adapter", {"lora_name": "other"})
    assert answer.text == "Success: LoRA adapter 'other' removed successfully."
    assert served.post("/v1/unload_lora_adapter", {"lora_name": "other"}).status_code == 404


def test_a_local_folder_is_loaded(served):
    registry = served.server.registry
    folder = registry.materialize(registry.resolve("beta"))
    body = {"lora_name": "by-path", "lora_path": str(folder)}
    assert served.post("/v1/load_lora_adapter", body).status_code == 200
    answer = served.post("/v1/chat/completions", {"model": "by-path", **CHAT})
    assert answer.headers["x-adapter-digest"] == served.digest("beta")
    served.post("/v1/unload_lora_adapter", {"lora_name": "by-path"})


def peft_folder(served, tmp_path, ref):
    """Return a folder as peft writes it, with the tensors of a version."""
    registry = served.server.registry
    source = registry.materialize(registry.resolve(ref))
    folder = tmp_path / ref
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    return str(folder)


def test_a_peft_folder_leaves_no_trace_once_it_is_unloaded(served, tmp_path):
    folders = {ref: peft_folder(served, tmp_path, ref) for ref in ("alpha", "beta")}
    before = served.server.registry.last_numbers()
    digests = []
    for ref in ("alpha", "beta", "alpha"):
        body = {"lora_name": "swapped", "lora_path": folders[ref], "load_inplace": True}
        assert served.post("/v1/load_lora_adapter", body).status_code == 200
        answer = served.post("/v1/chat/completions", {"model": "swapped", **CHAT})
        digests.append(answer.headers["x-adapter-digest"])
    assert digests[0] == digests[2] != digests[1]
    assert digests[1] not in served.engine.adapters.values()
    assert served.post("/v1/unload_lora_adapter", {"lora_name": "swapped"}).status_code == 200
    assert served.post("/v1/chat/completions", {"model": "swapped", **CHAT}).status_code == 404
    assert served.server.registry.last_numbers() == before
    assert not set(digests) & set(served.engine.adapters.values())


def without_effect(weights):
    tensors = {k: t * 0 if "lora_B" in k else t for k, t in weights.tensors.items()}
    return AdapterWeights(weights.spec, tensors)


def test_an_adapter_without_effect_is_refused_at_every_door(served, tmp_path):
    registry, fingerprint = served.server.registry, served.backbone.fingerprint
    weights = random_lora(1)
    store(registry, tmp_path / "o", "nothing", without_effect(weights), fingerprint)
    opposed = {k: -t if "lora_B" in k else t for k, t in weights.tensors.items()}
    opposite = AdapterWeights(weights.spec, opposed)
    store(registry, tmp_path / "n", "opposite", opposite, fingerprint)
    folder = str(registry.materialize(registry.resolve("nothing")))
    refused = [
        served.post("/v1/load_lora_adapter", {"lora_name": "n", "lora_path": path})
        for path in ("nothing", folder, peft_folder(served, tmp_path, "nothing"))
    ]
    refused.append(served.post("/v1/adapters/load", {"ref": "nothing"}))
    refused.append(served.post("/v1/adapters/load", {"ref": "nothing", "name": "n"}))
    refused.append(served.post("/v1/adapters/pin", {"ref": "nothing"}))
    for model in ("nothing", "nothing*0.5", "alpha*0", "alpha+opposite", "alpha*0.5+alpha*-0.5"):
        for stream in (False, True):
            refused.append(
                served.post("/v1/chat/completions", {"model": model, "stream": stream, **CHAT})
            )
        refused.append(served.post("/v1/completions", {"model": model, "prompt": "the film"}))
        refused.append(served.post("/v1/embeddings", {"model": model, "input": "the film"}))
    assert {answer.status_code for answer in refused} == {422}
    messages = {answer.json()["error"]["message"] for answer in refused}
    assert all("not change the output of the backbone" in message for message in messages)
    assert "n" not in served.server.names.loaded()
    assert refused[3].json()["error"]["message"].startswith("nothing@1: does not")
    ok = served.post("/v1/chat/completions", {"model": "alpha+opposite*0.5", **CHAT})
    assert ok.status_code == 200


def test_a_folder_of_another_backbone_is_refused_with_the_reason(served, tmp_path, monkeypatch):
    folder = Path(peft_folder(served, tmp_path, "alpha"))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "Qwen/Qwen2.5-0.5B-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    # what the tiny backbone is called is no Hub id, which another one could differ from
    backbone = served.server.backbones.first
    named = replace(backbone.facts, source="smollm2-135m-instruct")
    monkeypatch.setattr(backbone, "facts", named)
    body = {"lora_name": "elsewhere", "lora_path": str(folder)}
    answer = served.post("/v1/load_lora_adapter", body)
    assert answer.status_code == 409
    assert "Qwen/Qwen2.5-0.5B-Instruct" in answer.json()["error"]["message"]
    assert "elsewhere" not in served.server.names.loaded()


def test_no_adapter_takes_the_name_of_the_backbone(served):
    for path, body in {
        "/v1/adapters/load": {"ref": "beta", "name": served.base},
        "/v1/load_lora_adapter": {"lora_name": served.base, "lora_path": "beta"},
    }.items():
        answer = served.post(path, body)
        assert (answer.status_code, "the backbone's name" in answer.text) == (409, True)
    assert served.base not in served.server.names.loaded()


def test_an_adapter_is_pinned_and_unpinned(served):
    assert served.post("/v1/adapters/pin", {"ref": "alpha@1"}).json()["pinned"] is True
    assert entry(served, "alpha@1")["pinned"]
    served.post("/v1/adapters/pin", {"ref": "alpha@1", "pinned": False})
    assert not entry(served, "alpha@1")["pinned"]


def test_an_alias_moves_and_the_next_request_sees_it(served, tmp_path):
    fingerprint = served.backbone.fingerprint
    for seed in (31, 32):
        weights = random_lora(seed)
        store(served.server.registry, tmp_path / str(seed), "moving", weights, fingerprint)
    digests = []
    for number in (1, 2):
        body = {"ref": f"moving@{number}", "alias": "prod"}
        assert served.post("/v1/adapters/alias", body).json()["moved"]
        answer = served.post("/v1/chat/completions", {"model": "moving@prod", **CHAT})
        digests.append(answer.headers["x-adapter-digest"])
    assert digests == [served.digest("moving@1"), served.digest("moving@2")]


def test_a_report_has_the_metrics_of_the_training(served):
    found = served.request("GET", "/v1/adapters/report", params={"ref": "alpha"}).json()
    assert found["before"] == {"loss": 3.0}
    assert found["after"] == {"loss": 2.0}
    assert served.request("GET", "/v1/adapters/report").status_code == 400


def test_metrics_have_a_bounded_number_of_labels(served):
    served.post("/v1/chat/completions", {"model": "alpha", **CHAT})
    text = served.request("GET", "/metrics").text
    for line in (
        'adapterhub_requests_total{route="/v1/chat/completions",status="200"}',
        'adapterhub_adapter_requests_total{adapter="alpha"}',
        'adapterhub_adapter_loads_total{adapter="alpha"}',
        f'adapterhub_time_to_first_token_seconds_count{{backbone="{served.base}"}}',
        f'adapterhub_step_seconds_count{{backbone="{served.base}"}}',
        f'adapterhub_step_sequences_count{{backbone="{served.base}"}}',
        f'adapterhub_cache_size{{backbone="{served.base}"}} 1024.0',
        f'adapterhub_forward_path{{backbone="{served.base}",path="packed"}} 1.0',
        f'adapterhub_forward_path{{backbone="{served.base}",path="paged"}} 1.0',
    ):
        assert line in text
    labels = {served.server.metrics.label(f"made-up-{number}") for number in range(500)}
    assert len(labels) <= 101
    assert "other" in labels


def test_statistics_show_the_load(served):
    served.post("/v1/chat/completions", {"model": "alpha", **CHAT})
    found = served.request("GET", "/v1/stats").json()
    assert found["running"] == 0
    assert found["cache_size"] == 1024
    assert found["requests_total"] > 0
    assert found["time_to_first_token_ms_p50"] > 0
    assert served.request("GET", "/v1/me").json()["role"] == "manage"


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs"])
def test_public_routes_respond(served, path):
    answer = served.request("GET", path)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]


def test_the_api_documentation_loads_nothing_from_other_hosts(served):
    page = served.request("GET", "/docs")
    assert "http" not in page.text
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert served.request("GET", f"/{path}").status_code == 200, path
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; connect-src 'self'" in policy
    assert "http" not in policy


def test_unknown_addresses_and_methods_are_errors_in_openais_form(served):
    assert served.request("GET", "/v1/nothing").json()["error"]["message"]
    answer = served.request("DELETE", "/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"
