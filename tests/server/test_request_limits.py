"""Limits of requests and connections, over a real uvicorn on loopback."""

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

from adapterhub.http.errors import HTTPError
from adapterhub.server.connections import uvicorn_options
from adapterhub.server.request_limits import RequestLimits
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
            exception_handlers={HTTPError: self.refused},
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
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, **uvicorn_options(settings))
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def refused(self, _request, error):
        self.events.append(f"refused {error.status}")
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

    def ask(self, *parts, pause=0.0):
        """Send parts of a request and return all that comes until the end."""
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
    rows = [line, "Host: x", *given]
    return "\r\n".join([*rows, "", ""]).encode()


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def status(answer):
    return int(answer.split(b" ", 2)[1])


def test_a_body_within_the_limit_passes(served):
    answer = served.ask(
        head("POST /echo HTTP/1.1", Content_Length=1000, Connection="close"), b"a" * 1000
    )
    assert status(answer) == 200
    assert answer.endswith(b"a" * 1000)


def test_a_body_that_is_announced_as_too_long_is_not_read(served):
    answer = served.ask(head("POST /echo HTTP/1.1", Content_Length=1001))
    assert status(answer) == 413
    assert "1000 bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert b"connection: close" in answer.lower()


def test_a_length_of_thousands_of_digits_is_a_length_that_is_too_long():
    async def never(_scope, _receive, _send):
        raise AssertionError("the application was asked")

    limits = RequestLimits(
        never, error_response=answer_of, max_body_bytes=9, body_timeout=1, request_timeout=1
    )
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"9" * 5000)]}
    asyncio.run(limits(scope, None, send))
    assert sent[0]["status"] == 413


def test_a_body_that_is_too_long_unannounced_is_refused_where_it_is(served):
    chunk = b"c8\r\n" + b"a" * 200 + b"\r\n"
    start = head("POST /echo HTTP/1.1", Transfer_Encoding="chunked")
    answer = served.ask(start, *[chunk] * 6, b"0\r\n\r\n")
    assert status(answer) == 413
    assert served.events[-1] == "refused 413"


def test_a_body_that_does_not_come_is_not_waited_for(served):
    began = time.monotonic()
    answer = served.ask(head("POST /echo HTTP/1.1", Content_Length=100), b"a")
    assert status(answer) == 408
    assert 0.3 < time.monotonic() - began < 3


def test_a_body_that_trickles_is_held_to_the_time_of_all_of_it(served):
    parts = [b"a"] * 30
    answer = served.ask(head("POST /echo HTTP/1.1", Content_Length=100), *parts, pause=0.05)
    assert status(answer) == 408


def test_a_head_that_trickles_is_held_to_the_time_of_all_of_it(served):
    began = time.monotonic()
    answer = served.ask(b"GET /slow HTTP/1.1\r\n", *[b"X: y\r\n"] * 40, pause=0.05)
    assert status(answer) == 408
    assert time.monotonic() - began < 5


def test_a_connection_that_says_nothing_is_closed(served):
    began = time.monotonic()
    assert served.ask() == b""
    assert time.monotonic() - began < 3


def test_the_head_after_the_first_request_is_held_to_time_too(served):
    first = head("POST /echo HTTP/1.1", Content_Length=1)
    answer = served.ask(first, b"a", b"GET /slow HT", pause=0.1)
    assert status(answer) == 200
    assert b" 408 " in answer


def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(served):
    start = head("POST /nowhere HTTP/1.1", Content_Length=900)
    began = time.monotonic()
    answer = served.ask(start, *[b"a"] * 40, pause=0.05)
    assert status(answer) == 404
    assert time.monotonic() - began < 5


def test_a_connection_is_kept_for_the_next_request(served):
    first = head("POST /echo HTTP/1.1", Content_Length=1) + b"a"
    # longer than a head may take
    answer = served.ask(first, first, pause=0.6)
    assert answer.count(b"HTTP/1.1 200") == 2


def test_a_head_that_is_too_long_is_refused(served):
    answer = served.ask(b"GET /slow HTTP/1.1\r\n", *[b"X: " + b"y" * 500 + b"\r\n"] * 20)
    assert status(answer) == 431
    answer = served.ask(b"GET /" + b"a" * 9000)
    assert status(answer) == 431


def test_headers_after_the_body_are_left_out(served):
    start = head("POST /echo HTTP/1.1", Transfer_Encoding="chunked", Connection="close")
    answer = served.ask(start, b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert status(answer) == 200


def test_a_request_that_takes_too_long_is_cancelled_and_told(served):
    answer = served.ask(head("GET /slow HTTP/1.1"))
    assert status(answer) == 504
    assert b"took longer than 1 seconds" in answer
    assert served.events[-1] == "slow ended"


def test_a_stream_that_takes_too_long_is_ended(served):
    answer = served.ask(head("GET /stream HTTP/1.1"))
    assert status(answer) == 200
    assert not answer.endswith(b"0\r\n\r\n"), "it must not look whole"
    assert wait_for(lambda: served.events[-1] == "stream ended")


def test_a_client_that_reads_nothing_is_not_waited_for():
    with serving(request_timeout=60.0) as served, served.connect() as client:
        client.sendall(head("GET /flood HTTP/1.1"))
        assert wait_for(lambda: served.events == ["flood ended"])
        assert wait_for(lambda: not served.server.server_state.connections)


def test_a_client_that_goes_away_is_not_waited_for(served):
    served.events.clear()
    with served.connect() as client:
        client.sendall(head("POST /echo HTTP/1.1", Content_Length=100))
        time.sleep(0.1)
    assert wait_for(lambda: served.events == ["gone"])


def test_hundred_slow_clients_leave_room_for_the_rest():
    with serving(max_connections=1000) as served:
        slow = [served.connect() for _ in range(100)]
        for client in slow:
            client.sendall(b"GET /slow HTTP/1.1\r\nX: ")
        answer = served.ask(head("POST /echo HTTP/1.1", Content_Length=1, Connection="close"), b"a")
        assert status(answer) == 200
        assert wait_for(lambda: not served.server.server_state.connections)
        for client in slow:
            client.close()
