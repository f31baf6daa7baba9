"""A router of the package index in front of two servers; skipped where none is installed.

The program is looked up on the path, or in ``ADAPTERHUB_TEST_ROUTERS``, a folder of programs.
"""

import os
import shutil
import signal
import socket
import subprocess
import time

import httpx
import pytest
from http_server_helpers import running_server, store_adapters
from openai import OpenAI

from adapterhub.registry import Registry

HELLO = [{"role": "user", "content": "the film"}]
#: Routers and their subcommands.
ROUTERS = {"vllm-router": [], "sglang-router": ["launch"]}


@pytest.fixture(scope="module")
def two_servers(decoder, tmp_path_factory):
    home = tmp_path_factory.mktemp("two")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    with running_server(decoder, registry) as one, running_server(decoder, registry) as two:
        yield one, two


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until_ready(process, url, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/readiness", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the router is not ready: {process.stdout.read()[-2000:]}")


def requests_of(served):
    return served.server.metrics.requests_total


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_sends_requests_to_both_servers(two_servers, name, tmp_path):
    program = shutil.which(name, path=os.environ.get("ADAPTERHUB_TEST_ROUTERS")) or shutil.which(
        name
    )
    if program is None:
        pytest.skip(f"{name} is not installed; ADAPTERHUB_TEST_ROUTERS may name its folder")
    port, metrics = free_port(), free_port()
    command = [program, *ROUTERS[name], "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(metrics), "--policy", "round_robin"]
    command += ["--worker-urls", *(each.url for each in two_servers)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **options) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(process, url)
            client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
            before = [requests_of(each) for each in two_servers]
            for model in ("alpha", "beta@1", "alpha", "beta@1", two_servers[0].base):
                question = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 4}
                routed = client.chat.completions.create(**question)
                direct = two_servers[0].client.chat.completions.create(**question)
                assert routed.choices[0].message.content == direct.choices[0].message.content
                assert routed.system_fingerprint == direct.system_fingerprint
            streamed = client.chat.completions.create(
                model="alpha", messages=HELLO, max_tokens=4, stream=True
            )
            assert any(chunk.choices for chunk in streamed)
            # five questions went to the first one directly
            gained = [
                requests_of(each) - old for each, old in zip(two_servers, before, strict=True)
            ]
            assert gained[0] > 5
            assert gained[1] > 0
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
