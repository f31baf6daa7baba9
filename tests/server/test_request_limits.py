"""Limits of requests and connections with uvicorn on loopback."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from adapterhub.http.connections import uvicorn_options
from adapterhub.http.errors import HTTPError
from adapterhub.http.request_limits import RequestLimits
from adapterhub.server.settings import ServerSettings

LIMITS = {
    "max_body_bytes": 1000,
    "max_header_bytes": 4096,
    "header_timeout": 0.4,
    "body_timeout": 0.4,
    "write_timeout": 0.4,
    "request_timeout": 1.0,
    "keep_alive_timeout": 1,
    "max_connections": 50,
    "log_level": "error",
}


def answer_of(error):
    headers = getattr(error, "headers", {})
    return JSONResponse({"error": {"message": str(error)}}, error.status, headers)


class Served:
    """A small application behind the limits."""

    def __init__(self, **settings):
        self.events = []
        settings = ServerSettings(**{**LIMITS, **settings})
        app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["POST"]),
                Route("/slow", self.slow),
                Route("/stream", self.stream),
                Route("/flood", self.flood),
            ],
            exception_handlers={HTTPError: self.rejected},
        )
        app.add_middleware(
            RequestLimits,
            error_response=answer_of,
            max_body_bytes=settings.max_body_bytes,
            body_timeout=settings.body_timeout,
            request_timeout=settings.request_timeout,
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, **uvicorn_options(settings.connections, "error")
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def rejected(self, _request, error):
        self.events.append(f"rejected {error.status}")
        return answer_of(error)

    async def echo(self, request):
        try:
            return PlainTextResponse(await request.body())
        except ClientDisconnect:
            self.events.append("gone")
            raise

    async def slow(self, _request):
        try:
            await asyncio.sleep(30)
        finally:
            self.events.append("slow ended")

    async def stream(self, _request):
        async def parts():
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0.05)
            finally:
                self.events.append("stream ended")

        return StreamingResponse(parts())

    async def flood(self, _request):
        async def parts():
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                self.events.append("flood ended")

        return StreamingResponse(parts())

    def connect(self):
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.settimeout(10)
        return client

    def send(self, *parts, pause=0.0):
        """Send parts of a request and return everything that is received."""
        with self.connect() as client:
            try:
                for part in parts:
                    client.sendall(part)
                    time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return read_all(client)


def read_all(client):
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@contextmanager
def serving(**settings):
    served = Served(**settings)
    served.thread.start()
    deadline = time.monotonic() + 10
    while not served.server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield served
    finally:
        served.server.should_exit = True
        served.thread.join(timeout=10)


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        yield running


def head(line, **headers):
    given = (f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
    return "\r\n".join([line, "Host: x", *given, "", ""]).encode()


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def status(answer):
    return int(answer.split(b" ", 2)[1])


def test_a_body_within_the_limit_is_accepted(served):
    answer = served.send(
        head("POST /echo HTTP/1.1", Content_Length=1000, Connection="close"), b"a" * 1000
    )
    assert status(answer) == 200
    assert answer.endswith(b"a" * 1000)


def test_a_body_with_a_too_large_content_length_is_not_read(served):
    answer = served.send(head("POST /echo HTTP/1.1", Content_Length=1001))
    assert status(answer) == 413
    assert "1000 bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert b"connection: close" in answer.lower()


def test_a_content_length_of_thousands_of_digits_is_too_large():
    async def never(_scope, _receive, _send):
        raise AssertionError("the application was called")

    limits = RequestLimits(
        never, error_response=answer_of, max_body_bytes=9, body_timeout=1, request_timeout=1
    )
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"9" * 5000)]}
    asyncio.run(limits(scope, None, send))
    assert sent[0]["status"] == 413


def test_a_chunked_body_is_rejected_at_the_limit(served):
    chunk = b"c8\r\n" + b"a" * 200 + b"\r\n"
    start = head("POST /echo HTTP/1.1", Transfer_Encoding="chunked")
    answer = served.send(start, *[chunk] * 6, b"0\r\n\r\n")
    assert status(answer) == 413
    assert served.events[-1] == "rejected 413"


def test_a_missing_body_times_out(served):
    began = time.monotonic()
    answer = served.send(head("POST /echo HTTP/1.1", Content_Length=100), b"a")
    assert status(answer) == 408
    assert 0.3 < time.monotonic() - began < 3


def test_a_slow_body_times_out_as_a_whole(served):
    parts = [b"a"] * 30
    answer = served.send(head("POST /echo HTTP/1.1", Content_Length=100), *parts, pause=0.05)
    assert status(answer) == 408


def test_slow_headers_time_out_as_a_whole(served):
    began = time.monotonic()
    answer = served.send(b"GET /slow HTTP/1.1\r\n", *[b"X: y\r\n"] * 40, pause=0.05)
    assert status(answer) == 408
    assert time.monotonic() - began < 5


def test_a_silent_connection_is_closed(served):
    began = time.monotonic()
    assert served.send() == b""
    assert time.monotonic() - began < 3


def test_the_headers_of_a_second_request_time_out_as_well(served):
    first = head("POST /echo HTTP/1.1", Content_Length=1)
    answer = served.send(first, b"a", b"GET /slow HT", pause=0.1)
    assert status(answer) == 200
    assert b" 408 " in answer


def test_a_body_that_is_not_read_closes_the_connection(served):
    start = head("POST /nowhere HTTP/1.1", Content_Length=900)
    began = time.monotonic()
    answer = served.send(start, *[b"a"] * 40, pause=0.05)
    assert status(answer) == 404
    assert time.monotonic() - began < 5


def test_a_connection_is_kept_alive(served):
    first = head("POST /echo HTTP/1.1", Content_Length=1) + b"a"
    # longer than header_timeout
    answer = served.send(first, first, pause=0.6)
    assert answer.count(b"HTTP/1.1 200") == 2


def test_too_large_headers_are_rejected(served):
    answer = served.send(b"GET /slow HTTP/1.1\r\n", *[b"X: " + b"y" * 500 + b"\r\n"] * 20)
    assert status(answer) == 431
    answer = served.send(b"GET /" + b"a" * 9000)
    assert status(answer) == 431


def test_trailers_are_ignored(served):
    start = head("POST /echo HTTP/1.1", Transfer_Encoding="chunked", Connection="close")
    answer = served.send(start, b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert status(answer) == 200


def test_a_request_that_times_out_is_cancelled_with_504(served):
    answer = served.send(head("GET /slow HTTP/1.1"))
    assert status(answer) == 504
    assert b"took longer than 1 seconds" in answer
    assert served.events[-1] == "slow ended"


def test_a_stream_that_times_out_is_interrupted(served):
    answer = served.send(head("GET /stream HTTP/1.1"))
    assert status(answer) == 200
    assert not answer.endswith(b"0\r\n\r\n"), "the response looks complete"
    assert wait_for(lambda: served.events[-1] == "stream ended")


def test_a_client_that_reads_nothing_is_disconnected():
    with serving(request_timeout=60.0) as served, served.connect() as client:
        client.sendall(head("GET /flood HTTP/1.1"))
        assert wait_for(lambda: served.events == ["flood ended"])
        assert wait_for(lambda: not served.server.server_state.connections)


def test_a_disconnect_during_the_body_is_noticed(served):
    served.events.clear()
    with served.connect() as client:
        client.sendall(head("POST /echo HTTP/1.1", Content_Length=100))
        time.sleep(0.1)
    assert wait_for(lambda: served.events == ["gone"])


def test_a_hundred_slow_clients_do_not_block_others():
    with serving(max_connections=1000) as served:
        slow = [served.connect() for _ in range(100)]
        for client in slow:
            client.sendall(b"GET /slow HTTP/1.1\r\nX: ")
        answer = served.send(
            head("POST /echo HTTP/1.1", Content_Length=1, Connection="close"), b"a"
        )
        assert status(answer) == 200
        assert wait_for(lambda: not served.server.server_state.connections)
        for client in slow:
            client.close()
