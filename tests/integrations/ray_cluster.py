"""A real Ray cluster of one machine, with tiny replicas."""

import os
import socket
from contextlib import contextmanager

import httpx
import pytest
import ray
from ray import serve
from ray.util import list_named_actors

from adapterhub.integrations.ray import REPLICA_HEADER, build_app

NAMESPACE = "serve"


@contextmanager
def running_cluster(home, cpus=4):
    """Run Ray and its HTTP proxy until the block ends; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERHUB_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        patch.setenv("RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S", "2")
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 1024 * 1024,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def deploy(backbone, **settings):
    """Deploy the application with tiny replicas, and wait until it runs."""
    small = {"quantization": "none", "kv_cache_tokens": 1024, "max_num_batched_tokens": 64}
    app = build_app({"backbone": str(backbone), "anonymous_access": "manage", **small, **settings})
    serve.run(app, name="adapterhub")


def complete(url, model, **fields):
    """Return the response to a completion of a fixed prompt."""
    body = {"model": model, "prompt": "the film was", "temperature": 0, "max_tokens": 8} | fields
    return httpx.post(f"{url}/v1/completions", json=body, timeout=120)


def replica_of(response):
    """Return the id of the replica that answered."""
    return response.headers[REPLICA_HEADER.decode()]


def kill_replica(replica):
    """Kill the process of a replica."""
    for actor in list_named_actors(all_namespaces=True):
        if replica in actor["name"]:
            ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
            return
    raise AssertionError(f"no actor of {replica}")
