"""Ray Serve itself: affinity, aliases, a replica that dies, and a rolling update."""

import threading
import time

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from integrations.ray_cluster import (
    complete,
    deploy,
    kill_replica,
    replica_of,
    running_cluster,
)
from server.http_server_helpers import UNQUANTIZED, random_lora, store

from adapterhub.backbones.backbone import choose_device, load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

pytestmark = pytest.mark.timeout(900)
ADAPTERS = 6


@pytest.fixture(scope="module")
def registry(decoder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home)
    fingerprint = load_backbone(str(decoder), UNQUANTIZED).fingerprint
    for seed in range(1, ADAPTERS + 1):
        store(registry, home / f"made{seed}", f"a{seed}", random_lora(seed), fingerprint)
    store(registry, home / "second", "a1", random_lora(9), fingerprint)
    registry.set_alias("a1@1", "prod")
    return registry


@pytest.fixture(scope="module")
def texts(decoder):
    """The texts of our engine, by seed of the adapter."""
    # the type that a server computes in
    spec = QuantizationSpec("none", default_compute_dtype(choose_device("cpu")))
    with_adapters = Engine(load_backbone(str(decoder), spec), EngineConfig())
    params = SamplingParams(temperature=0, max_tokens=8)
    found = {}
    for seed in (1, 2, 9):
        with_adapters.load_weights(random_lora(seed), key=f"v{seed}", name=f"v{seed}")
        (output,) = with_adapters.generate(["the film was"], [f"v{seed}"], params)
        found[seed] = output.text
    return found


@pytest.fixture(scope="module")
def url(decoder, registry):
    with running_cluster(registry.folder.parent) as url:
        deploy(decoder, replicas=2)
        yield url


class Load:
    """Clients that send requests until they are stopped."""

    def __init__(self, url, models, clients=3):
        self.responses = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(url, models)) for _ in range(clients)
        ]

    def _run(self, url, models):
        number = 0
        while not self._done.is_set():
            response = complete(url, models[number % len(models)])
            self.responses.append((response.status_code, response.text))
            number += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count):
        """Wait for more responses."""
        goal, end = len(self.responses) + count, time.monotonic() + 120
        while len(self.responses) < goal:
            assert time.monotonic() < end, "no responses"
            time.sleep(0.05)


def test_answers_are_those_of_one_server(url, registry, texts):
    response = complete(url, "a1@prod")
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["text"] == texts[1]
    digest = registry.resolve("a1@1").digest
    assert response.json()["model"] == f"a1@{digest}"
    assert complete(url, "a2").json()["choices"][0]["text"] == texts[2]
    streamed = complete(url, "a2", stream=True)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_an_alias_moves_for_all_replicas_at_once(url, registry, texts):
    registry.set_alias("a1@2", "prod")
    answers = {complete(url, "a1@prod").json()["choices"][0]["text"] for _ in range(6)}
    registry.set_alias("a1@1", "prod")
    assert answers == {texts[9]}


def test_an_adapter_stays_with_its_replica(url):
    names = [f"a{number}@1" for number in range(1, ADAPTERS + 1)]
    first = {name: replica_of(complete(url, name)) for name in names}
    # Ray learns of the adapters of a replica a moment later
    time.sleep(1.0)
    for name in names * 3:
        assert replica_of(complete(url, name)) == first[name]


def test_errors_are_those_of_one_server(url):
    assert complete(url, "nobody").status_code == 404
    assert "is not an adapter of this server" in complete(url, "nobody").text
    assert complete(url, "a1", temperature=-1).status_code == 400
    assert complete(url, "a1", prompt="x" * 30_000_000).status_code == 413


def test_a_replica_that_dies_loses_no_request(url):
    with Load(url, ["a1@1", "a2@1", "a3@1"]) as load:
        load.wait(5)
        kill_replica(replica_of(complete(url, "a1@1")))
        load.wait(20)
    assert {status for status, _ in load.responses} == {200}, load.responses[-1]


def test_a_rolling_update_fails_no_request(url, decoder):
    with Load(url, ["a1@1", "a2@1"]) as load:
        load.wait(5)
        deploy(decoder, replicas=2, max_num_seqs=4)
        load.wait(10)
    assert {status for status, _ in load.responses} == {200}
