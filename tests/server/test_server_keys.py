"""Permissions and limits of API keys over HTTP."""

import pytest
from http_server_helpers import running_server, store_adapters

from adapterhub.access import open_keys
from adapterhub.registry import Registry

CHAT = {"messages": [{"role": "user", "content": "the film"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def keyed(decoder, tmp_path_factory):
    home = tmp_path_factory.mktemp("keyed")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    keys = open_keys(registry)
    with running_server(decoder, registry) as served:
        yield served, keys


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def send(served, secret, model):
    return served.post("/v1/chat/completions", {"model": model, **CHAT}, headers=bearer(secret))


def test_a_key_for_one_reference_allows_and_lists_no_other(keyed):
    served, keys = keyed
    secret = keys.create("narrow", adapters=["alpha@prod"])
    assert send(served, secret, "alpha@prod").status_code == 200
    assert send(served, secret, served.base).status_code == 200
    for model in ("alpha", "alpha@1", "beta", "alpha@prod*0.5+beta*0.5"):
        answer = send(served, secret, model)
        assert answer.status_code == 403, model
        assert answer.json()["error"]["type"] == "permission_error"
    listed = served.request("GET", "/v1/models", headers=bearer(secret)).json()["data"]
    assert {each["id"] for each in listed} == {served.base, "alpha@prod"}
    adapters = served.request("GET", "/v1/adapters", headers=bearer(secret)).json()["data"]
    assert [each["ref"] for each in adapters] == ["alpha@1"]


def test_managing_requires_a_key_with_the_role(keyed):
    served, keys = keyed
    use, manage = keys.create("one"), keys.create("two", "manage")
    body = {"ref": "beta", "name": "by-key"}
    assert served.post("/v1/adapters/load", body, headers=bearer(use)).status_code == 403
    assert served.post("/v1/adapters/load", body, headers=bearer(manage)).status_code == 200
    assert served.post("/v1/adapters/load", body).status_code == 401


def test_a_rate_limit_says_when_to_retry(keyed):
    served, keys = keyed
    secret = keys.create("slow", rate=2)
    statuses = [send(served, secret, "alpha").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = send(served, secret, "alpha")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    # requests without a body do not count
    assert served.request("GET", "/v1/models", headers=bearer(secret)).status_code == 200
