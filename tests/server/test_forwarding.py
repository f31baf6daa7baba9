"""Requests that other processes answer: forwarded, repeated when a process is lost, and pinned."""

import asyncio
import json

import pytest
from registry.registry_helpers import make_artifact
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from adapterhub.http.errors import HTTPError
from adapterhub.registry import Registry
from adapterhub.server import forwarding
from adapterhub.server.forwarding import ForwardedRequest, respond_to, with_retries
from adapterhub.server.pinning import pin_model

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/echo",
    "raw_path": b"/echo",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
    "app": object(),
}


class Lost(Exception):
    """The other process is gone."""


def is_lost(error):
    return isinstance(error, Lost)


async def collect(messages):
    return [message async for message in messages]


async def echo(request):
    return JSONResponse({"body": (await request.body()).decode()})


async def broken(request):
    raise RuntimeError("broken")


APP = Starlette(
    routes=[
        Route("/echo", echo, methods=["POST"]),
        Route("/broken", broken, methods=["POST"]),
    ]
)


def test_a_request_is_answered_by_the_application():
    request = ForwardedRequest.of(SCOPE, b'{"changed": 1}')
    assert "app" not in request.scope
    start, body = asyncio.run(collect(respond_to(APP, request)))
    assert start["status"] == 200
    assert json.loads(body["body"]) == {"body": '{"changed": 1}'}


def test_what_the_application_raises_is_raised():
    request = ForwardedRequest.of({**SCOPE, "path": "/broken"}, b"")
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(collect(respond_to(APP, request)))


def test_leaving_cancels_the_application():
    cancelled = []

    async def stream(request):
        async def forever():
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0.01)
            finally:
                cancelled.append(True)

        return StreamingResponse(forever())

    async def leave():
        app = Starlette(routes=[Route("/echo", stream, methods=["POST"])])
        messages = respond_to(app, ForwardedRequest.of(SCOPE, b""))
        for _ in range(3):
            await anext(messages)
        await messages.aclose()

    asyncio.run(leave())
    assert cancelled


START = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"a", "more_body": True}
END = {"type": "http.response.body", "body": b"b"}


def attempts(*scripts):
    """Return a function whose calls yield the messages of each script, and raise its exceptions."""
    left = iter(scripts)

    async def attempt():
        for item in next(left):
            if isinstance(item, Exception):
                raise item
            yield item

    return attempt


def test_a_request_is_repeated_until_its_answer_begins(monkeypatch):
    monkeypatch.setattr(forwarding, "BACKOFF_SECONDS", 0.001)
    attempt = attempts([Lost()], [START, Lost()], [START, MORE, END])
    assert asyncio.run(collect(with_retries(attempt, is_lost))) == [START, MORE, END]


def test_a_stream_that_is_lost_ends_with_the_error():
    attempt = attempts([START, MORE, Lost()], [START, END])
    *first, last = asyncio.run(collect(with_retries(attempt, is_lost)))
    assert first == [START, MORE]
    error = json.loads(last["body"].removeprefix(b"data: "))["error"]
    assert error["message"] == "the replica that computed this answer was lost"


def test_answers_that_are_errors_are_not_repeated(monkeypatch):
    with pytest.raises(ValueError, match="an answer"):
        asyncio.run(collect(with_retries(attempts([ValueError("an answer")]), is_lost)))
    monkeypatch.setattr(forwarding, "BACKOFF_SECONDS", 0.001)
    with pytest.raises(HTTPError, match="5 replicas were lost"):
        asyncio.run(collect(with_retries(attempts(*[[Lost()]] * 5), is_lost)))


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "home")
    for number in (1, 2):
        registry.put(make_artifact(tmp_path / str(number), f"weights {number}"), "desk")
    registry.set_alias("desk@1", "prod")
    return registry


def pinned(registry, model, **fields):
    body, digests = pin_model(json.dumps({"model": model, **fields}).encode(), registry, {"base"})
    return json.loads(body)["model"], digests


def test_aliases_are_pinned_to_digests(registry):
    first, second = (registry.resolve(f"desk@{number}").digest for number in (1, 2))
    assert pinned(registry, "desk@prod") == (f"desk@{first}", first)
    assert pinned(registry, "desk@prod*0.7+desk@2*0.3") == (
        f"desk@{first}*0.7+desk@{second}*0.3",
        f"{first},{second}",
    )
    registry.set_alias("desk@2", "prod")
    assert pinned(registry, "desk@prod")[1] == second


@pytest.mark.parametrize("model", ["base", "nobody", "desk@canary", "desk@@", 7, None])
def test_what_is_no_adapter_is_left_to_the_replica(registry, model):
    assert pinned(registry, model) == (model, "")


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b"\xff"])
def test_other_bodies_stay_as_they_are(registry, body):
    assert pin_model(body, registry, set()) == (body, "")
