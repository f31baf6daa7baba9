"""The client of the load test counts what a server sent, in chunks of any size."""

import asyncio
import json
import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from http_streams import Found, Plan, follow, requests_of

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BUSY = b'HTTP/1.1 429 Too Many\r\nContent-Length: 15\r\n\r\n{"error": "no"}'


BROKEN = STREAM_HEAD + b"12\r\ndata: {"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def answer(tokens: int) -> bytes:
    """Return an answer whose last event has two tokens, like an incomplete UTF-8 character."""
    events = [b'data: {"text":"x"}\n\n'] * (tokens - 1)
    used = b'data: {"usage":{"completion_tokens":%d}}\n\n' % tokens
    chunks = [*events, used, b"data: [DONE]\n\n"]
    return STREAM_HEAD + b"".join(map(chunk, chunks)) + b"0\r\n\r\n"


async def served(reply, plan_options) -> Found:
    """Run the client against a server that replies in chunks of seven bytes."""

    async def serve(reader, writer):
        number = 0
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            content = reply(body, number)
            number += 1
            for start in range(0, len(content), 7):
                writer.write(content[start : start + 7])
                await writer.drain()
                await asyncio.sleep(0)
            if content == BROKEN:
                writer.close()
                return

    async def quiet(reader, writer):
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    options = {"streams": 3, "adapters": 2, "prompt": 4, "tokens": 5, "seed": 1}
    plan = Plan(host=host, port=port, warm=0.0, **{"seconds": 20.0, **options, **plan_options})
    try:
        return await follow(plan)
    finally:
        server.close()


def test_tokens_are_those_that_the_answers_report():
    bodies = []

    def reply(body, _number):
        bodies.append(body)
        return answer(body["max_tokens"])

    found = asyncio.run(served(reply, {"requests": 12}))
    assert found.statuses == {"200": 12}
    assert found.answers == 12
    assert found.tokens == pytest.approx(sum(body["max_tokens"] for body in bodies))
    assert {body["model"] for body in bodies} == {"adapter0", "adapter1"}
    assert found.first_token_ms is not None


def test_rejected_and_broken_answers_are_counted_separately():
    def reply(body, number):
        whole = answer(body["max_tokens"])
        return [BUSY, whole, BROKEN][number]

    found = asyncio.run(served(reply, {"streams": 1, "seconds": 1.0}))
    assert found.statuses == {"429": 1, "200": 1, "closed after 200": 1}
    assert found.answers == 1


def test_the_time_limit_ends_the_measurement():
    def reply(body, number):
        return answer(body["max_tokens"]) if number < 2 else b""

    found = asyncio.run(served(reply, {"seconds": 0.5}))
    assert found.statuses == {"200": 6}
    assert found.seconds == 0.5


def test_streams_have_different_but_reproducible_requests():
    plan = Plan("", 0, 2, 2, prompt=4, tokens=9, seed=3, warm=0, seconds=1)
    first, again, other = (list(islice(requests_of(plan, n), 3)) for n in (0, 0, 1))
    assert first == again
    assert first != other
    assert [tokens for _, _, tokens in first[1:]] == [9, 9]
