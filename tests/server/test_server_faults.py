"""Disconnects, failing steps, and a server that stops."""

import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from http_server_helpers import running_server, store_adapters

from adapterhub.registry import Registry

STEP = 0.03
LONG = {
    "model": "alpha",
    "messages": [{"role": "user", "content": "the film"}],
    "max_tokens": 400,
    "ignore_eos": True,
}


@pytest.fixture
def slow(served, monkeypatch):
    """The server with slow steps."""
    engine = served.engine._engine
    step = engine.step

    def slow_step():
        time.sleep(STEP)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    return served


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.002)


@pytest.mark.parametrize("streams", [True, False])
def test_a_disconnect_cancels_the_request_within_a_step(slow, streams):
    port = int(slow.url.rpartition(":")[2])
    body = httpx.Request("POST", slow.url, json={**LONG, "stream": streams}).content
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: slow.stats().running == 1)
        time.sleep(5 * STEP)
        assert slow.stats().running == 1
    gone = slow.stats().steps
    wait_for(lambda: slow.stats().running == 0)
    assert slow.stats().steps - gone <= 3
    assert slow.stats().waiting == 0


def test_an_error_in_a_step_fails_the_requests_and_not_the_server(served, monkeypatch):
    engine = served.engine._engine
    body = {**LONG, "max_tokens": 3}

    def fault():
        monkeypatch.undo()
        raise KeyError("secret of the machine")

    monkeypatch.setattr(engine, "step", fault)
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert served.post("/v1/chat/completions", body).status_code == 200
    assert served.stats().running == 0


def test_invalid_and_too_large_bodies_are_rejected(served):
    large = b'{"model": "' + b"x" * (5 * 1024**2) + b'"}'
    for content, status in ((large, 413), (b"{", 400), (b"[1]", 400), (b"", 400)):
        answer = served.request("POST", "/v1/chat/completions", content=content)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_running_requests_finish_when_the_server_stops(decoder, tmp_path):
    registry = Registry(tmp_path / "registry")
    store_adapters(registry, tmp_path, decoder)
    found = []
    with running_server(decoder, registry) as served:
        body = {**LONG, "max_tokens": 200, "stream": True}

        def send():
            found.append(served.post("/v1/chat/completions", body).text)

        sending = threading.Thread(target=send)
        sending.start()
        wait_for(lambda: served.stats().running == 1)
        served.listener.handle_exit(signal.SIGTERM, None)
        sending.join(30)
    assert '"finish_reason":"length"' in found[0]
    assert found[0].endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.ConnectError):
        served.request("GET", "/health")


def test_the_command_prints_its_url_and_stops_on_sigterm(decoder, tmp_path):
    command = [sys.executable, "-m", "adapterhub", "serve", "--backbone", str(decoder)]
    command += ["--port", "0", "--quantization", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert "/v1" in "".join(lines)
        url = next(word for word in lines[2].split() if word.startswith("http"))
        assert httpx.get(url).json()["data"][0]["id"] == decoder.name
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
