"""A server that sends without end, lies about sizes, or drips: a pull is bounded, and says so."""

import gzip
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hub_client_helpers import ADDRESS
from huggingface_hub import HfApi

from adapterhub.errors import ArtifactError, TransferError
from adapterhub.hub.client import limits, remote
from adapterhub.hub.client.pulling import pull

SHA = "a" * 40
CHUNK = b" " * 65536


class Hostile:
    """A Hub whose answers a test chooses, by the part of the path that they are for.

    Args:
        size: Size that is listed for the manifest.
        answers: Part of a path to the function that sends the answer.
    """

    def __init__(self, size=100, **answers):
        self.size = size
        self.answers = answers
        self.sent = 0

    def respond(self, request):
        for part, answer in self.answers.items():
            if f"/{part.replace('_', '-')}" in request.path and request.command == "GET":
                answer(self, request)
                return
        info = {"id": ADDRESS.repo_id, "sha": SHA, "private": False, "siblings": []}
        entry = {"type": "file", "path": "manifest.json", "size": self.size, "oid": "b" * 40}
        whole(info if "/tree" not in request.path else [entry], self.size)(self, request)

    def send(self, request, content):
        request.wfile.write(content)
        self.sent += len(content)


def start(request, **headers):
    request.send_response(200)
    request.send_header("ETag", '"abc"')
    request.send_header("X-Repo-Commit", SHA)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


def whole(document, size=100):
    def answer(hub, request):
        content = json.dumps(document).encode()
        length = size if request.command == "HEAD" else len(content)
        start(request, Content_Length=length)
        if request.command != "HEAD":
            hub.send(request, content)

    return answer


def endless(hub, request):
    start(request, Connection="close")
    while True:
        hub.send(request, CHUNK)


def long(hub, request):
    start(request, Content_Length=10**12)
    while True:
        hub.send(request, CHUNK)


def dripping(hub, request):
    start(request, Connection="close")
    while True:
        hub.send(request, b" ")
        time.sleep(0.05)


def dripping_headers(hub, request):
    request.send_response(200)
    request.flush_headers()
    while True:
        hub.send(request, b"X-More: x\r\n")
        time.sleep(0.05)


def zipped(hub, request):
    content = gzip.compress(b" " * 50_000_000)
    start(request, Content_Encoding="gzip", Content_Length=len(content))
    hub.send(request, content)


def same_page(hub, request):
    start(request, Link=f'<http://{request.headers["Host"]}{request.path}>; rel="next"')
    request.close_connection = True
    hub.send(request, b"[]")


def many_entries(hub, request):
    entry = {"type": "file", "size": 1, "oid": "b" * 40}
    whole([{**entry, "path": f"f{number}"} for number in range(30)])(hub, request)


@contextmanager
def serving(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            try:
                hub.respond(self)
            except OSError:
                # the client has gone
                self.close_connection = True

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(limits, "BASE_SECONDS", 1.0)
    monkeypatch.setattr(remote, "MAX_LISTING", 100_000)
    monkeypatch.setattr(remote, "MAX_ENTRIES", 20)


def bytes_below(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


TOO_MUCH, TOO_SLOW = "sends more than the", "did not arrive within"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"resolve": endless}, TOO_MUCH),
        ({"resolve": long}, TOO_MUCH),
        ({"resolve": whole({"more": "x" * 1000})}, TOO_MUCH),
        ({"resolve": dripping}, TOO_SLOW),
        ({"resolve": dripping_headers}, TOO_SLOW),
        ({"resolve": zipped}, "encoding 'gzip'"),
        ({"tree": endless}, TOO_MUCH),
        ({"tree": same_page}, TOO_SLOW),
        ({"tree": zipped}, "encoding 'gzip'"),
        ({"tree": many_entries}, "lists more than 20 files"),
        ({"api": endless}, TOO_MUCH),
        ({"api": dripping_headers}, TOO_SLOW),
    ],
    ids=lambda each: (
        "-".join(f"{k}-{v.__name__}" for k, v in each.items()) if isinstance(each, dict) else ""
    ),
)
def test_a_pull_is_bounded(there, tmp_path, answers, message):
    hub = Hostile(**answers)
    begin = time.monotonic()
    with serving(hub) as api, pytest.raises((TransferError, ArtifactError), match=message):
        pull(there, ADDRESS, api=api)
    assert time.monotonic() - begin < 8
    # what the kernel buffers is sent, not stored
    assert bytes_below(tmp_path) < 1_000_000
    assert there.list() == ()


def test_a_large_listed_size_of_the_manifest_is_refused_before_it_is_fetched(there):
    hub = Hostile(size=10**12)
    with serving(hub) as api, pytest.raises(ArtifactError, match=r"manifest\.json.*the limit is"):
        pull(there, ADDRESS, api=api)
    assert hub.sent < 10_000
