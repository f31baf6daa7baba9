"""Requests generated from the OpenAPI document: none leads to a server error."""

import copy

import pytest
import schemathesis
from http_server_helpers import running_server, store_adapters
from hypothesis import HealthCheck, Phase, given, settings

from adapterhub.registry import Registry
from adapterhub.server.app import create_api

DOCUMENT = create_api().openapi()
#: Together about half a minute.
EXAMPLES = 25


def narrowed(models):
    """Return the document with existing models and short answers."""
    found = copy.deepcopy(DOCUMENT)
    narrow(found["components"]["schemas"], models)
    return found


def narrow(node, models):
    if isinstance(node, list):
        for item in node:
            narrow(item, models)
    if not isinstance(node, dict):
        return
    properties = node.get("properties", {})
    if "model" in properties:
        properties["model"] = {"enum": models}
    for name, most in (("max_tokens", 4), ("max_completion_tokens", 4), ("n", 2)):
        if name in properties:
            properties[name] = {"type": "integer", "minimum": 1, "maximum": most}
    for item in node.values():
        narrow(item, models)


@pytest.fixture(scope="module")
def fuzzed(decoder, tmp_path_factory):
    home = tmp_path_factory.mktemp("fuzzed")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    with running_server(decoder, registry) as served:
        for ref in ("moods", "things"):
            served.post("/v1/adapters/load", {"ref": ref})
        yield served


PATHS = [(path, method.upper()) for path, each in DOCUMENT["paths"].items() for method in each]


@pytest.mark.parametrize(("path", "method"), PATHS)
@pytest.mark.parametrize("known", [True, False])
def test_no_request_is_a_server_error(fuzzed, path, method, known):
    models = [fuzzed.base, "alpha", "alpha@prod*0.7+beta*0.3", "moods", "things", "none"]
    found = narrowed(models) if known else DOCUMENT
    operation = schemathesis.openapi.from_dict(found)[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case):
        answer = case.call(base_url=fuzzed.url, timeout=240)
        assert answer.status_code < 500, answer.text
        assert answer.headers["x-request-id"]

    send()
    assert fuzzed.request("GET", "/ready").status_code == 200
