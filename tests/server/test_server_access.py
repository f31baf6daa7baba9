"""API keys over HTTP: access, adapters, limits and logs."""

import json
import logging
import threading
import time

import pytest
from http_server_helpers import running_server, store_adapters

from adapterhub.access import open_keys
from adapterhub.registry import Registry
from adapterhub.server.settings import ServerSettings


@pytest.fixture(scope="module")
def closed(decoder, tmp_path_factory):
    """A server that requires keys, and its keys."""
    home = tmp_path_factory.mktemp("closed")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    keys = open_keys(registry)
    keys.create("first", "manage")
    settings = ServerSettings(port=0, shutdown_timeout=5, max_num_seqs=8)
    with running_server(decoder, registry, settings=settings) as served:
        yield served, keys


def send(served, key, model="alpha", tokens=2, **body):
    options = {
        "model": model,
        "prompt": "the film",
        "max_tokens": tokens,
        "ignore_eos": True,
        **body,
    }
    return served.post("/v1/completions", options, headers={"Authorization": f"Bearer {key}"})


def test_without_a_key_only_the_public_routes_respond(closed):
    served, _ = closed
    assert served.post("/v1/completions", {"model": "alpha", "prompt": "the"}).status_code == 401
    for path in ("/v1/models", "/v1/adapters", "/v1/stats", "/metrics"):
        assert served.request("GET", path).status_code == 401, path
    for path in ("/health", "/ready"):
        assert served.request("GET", path).status_code == 200, path


def test_a_key_allows_only_its_adapters(closed):
    served, keys = closed
    key = keys.create("listed", adapters=["alpha@prod"])
    assert send(served, key, "alpha@prod").status_code == 200
    for model in ("alpha", "beta", "alpha@prod*0.5+beta*0.5"):
        answer = send(served, key, model)
        assert answer.status_code == 403, model
        assert answer.json()["error"]["type"] == "permission_error"


def test_the_role_use_may_not_manage(closed):
    served, keys = closed
    headers = {"Authorization": f"Bearer {keys.create('user')}"}
    answer = served.post("/v1/adapters/load", {"ref": "alpha"}, headers=headers)
    assert answer.status_code == 403


def test_a_rate_limit_counts_requests_with_a_body(closed):
    served, keys = closed
    key = keys.create("slow", rate=2)
    assert [send(served, key).status_code for _ in range(4)] == [200, 200, 429, 429]
    answer = send(served, key)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    headers = {"Authorization": f"Bearer {key}"}
    assert served.request("GET", "/v1/models", headers=headers).status_code == 200


def test_a_concurrency_limit_counts_a_list_as_one_request(closed):
    served, keys = closed
    key = keys.create("few", concurrency=1)
    texts = ["the film"] * 20
    assert send(served, key, prompt=texts).status_code == 200
    slow = threading.Thread(target=send, args=(served, key, "alpha", 400))
    slow.start()
    deadline = time.monotonic() + 20
    while served.server.access.running == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert send(served, key).status_code == 429
    slow.join()
    assert send(served, key).status_code == 200


def test_the_log_names_the_key_and_not_the_prompt(closed, caplog):
    served, keys = closed
    key = keys.create("logged")
    (key_id,) = (info.id for info in keys.list() if info.name == "logged")
    with caplog.at_level(logging.INFO, logger="adapterhub"):
        answer = send(served, key)
        assert answer.status_code == 200
        # the client may receive the response before its line is logged
        end = time.monotonic() + 10
        while not any(hasattr(each, "fields") for each in caplog.records):
            assert time.monotonic() < end
            time.sleep(0.01)
    lines = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert [line["key"] for line in lines] == [key_id]
    assert "the film" not in json.dumps(lines)
    assert key not in json.dumps(lines)


def manage(served, key, method, path, body=None):
    headers = {"Authorization": f"Bearer {key}"}
    if method == "GET":
        return served.request("GET", path, headers=headers)
    return served.post(path, body, headers=headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/adapters/load", {"ref": "beta", "name": "alpha"}),
        ("/v1/adapters/load", {"ref": "alpha", "name": "beta"}),
        ("/v1/adapters/load", {"ref": "hf://other/adapter"}),
        ("/v1/adapters/pin", {"ref": "beta"}),
        ("/v1/adapters/unload", {"name": "beta"}),
        ("/v1/adapters/alias", {"ref": "beta@1", "alias": "prod"}),
        ("/v1/load_lora_adapter", {"lora_name": "alpha", "lora_path": "beta"}),
        ("/v1/load_lora_adapter", {"lora_name": "beta", "lora_path": "alpha"}),
        ("/v1/load_lora_adapter", {"lora_name": "alpha", "lora_path": "/tmp"}),
        ("/v1/unload_lora_adapter", {"lora_name": "beta"}),
    ],
)
def test_the_allowed_adapters_of_a_key_hold_for_every_change(closed, path, body):
    served, keys = closed
    key = keys.create(f"bound-{time.monotonic_ns()}", "manage", adapters=["alpha"])
    assert manage(served, key, "POST", path, body).status_code == 403
    assert "alpha" not in served.server.names.loaded()


def test_a_key_for_one_alias_may_not_move_another(closed):
    served, keys = closed
    key = keys.create("one-alias", "manage", adapters=["alpha@prod", "alpha@1"])
    body = {"ref": "alpha@1", "alias": "next"}
    assert manage(served, key, "POST", "/v1/adapters/alias", body).status_code == 403


def test_a_restricted_key_learns_no_hidden_names(closed):
    served, keys = closed
    key = keys.create("curious", adapters=["alpha@prod", "alpha@9"])
    assert send(served, keys.create("all"), "beta").status_code == 200
    answers = [
        # known and unknown names of others give the same response
        *(send(served, key, model).json() for model in ("beta", "betta", "beta@7")),
        send(served, key, "alpha@9").json(),
        manage(served, key, "GET", "/v1/adapters").json(),
        manage(served, key, "GET", "/v1/models").json(),
    ]
    assert "beta" not in json.dumps(answers[3:])
    for name, answer in zip(("beta", "betta", "beta@7"), answers, strict=False):
        assert answer["error"]["message"].replace(name, "") == answers[0]["error"][
            "message"
        ].replace("beta", "")
    metrics = manage(served, key, "GET", "/metrics").text
    assert 'adapter="' not in metrics.replace('adapter="alpha"', "")
    assert "adapterhub_tokens_total" in metrics


def test_every_part_of_a_blend_is_checked_before_equal_digests_are_merged(closed):
    served, keys = closed
    key = keys.create("blends", adapters=["alpha@prod"])
    assert send(served, key, "alpha@prod*0.5+alpha@1*0.5").status_code == 403
