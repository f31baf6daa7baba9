"""Logs as lines of JSON with the id of the request and without prompts."""

import asyncio
import io
import json
import logging

import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from adapterhub.errors import RequestError
from adapterhub.server.request_log import RequestLog, add_log_fields, configure_logging

SECRET = "my grandmother's maiden name"
LOG = logging.getLogger("adapterhub.tests")


class Prompt(BaseModel):
    prompt: int


async def answer(request):
    body = await request.json()
    LOG.info("at work")
    add_log_fields(request.scope, key="0123456789ab")
    await asyncio.sleep(body.get("wait", 0))
    return JSONResponse({"text": body["prompt"]}, headers={"x-adapter-digest": "sha256:abc"})


async def fail(request):
    body = await request.json()
    kind = request.query_params["kind"]
    try:
        if kind == "pydantic":
            Prompt.model_validate(body)
        if kind == "key":
            {}[body["prompt"]]
        if kind == "own":
            raise RequestError("is too long", place="prompt")
        raise RuntimeError("out of memory")
    except Exception as error:
        LOG.error("%s", error, exc_info=error)
    try:
        try:
            int(body["prompt"])
        except ValueError as error:
            raise RuntimeError("while reading") from error
    except RuntimeError:
        LOG.exception("again")
    return JSONResponse({}, 500)


async def stream(_request):
    async def parts():
        for _ in range(3):
            yield b"x" * 10
            await asyncio.sleep(0.02)

    return StreamingResponse(parts())


@pytest.fixture
def logged():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    text = io.StringIO()

    def start(*, prompts=False):
        configure_logging("info", prompts=prompts, stream=text)
        routes = [
            Route("/answer", answer, methods=["POST"]),
            Route("/fail", fail, methods=["POST"]),
            Route("/stream", stream),
        ]
        app = Starlette(routes=routes)
        app.add_middleware(RequestLog, prompts=prompts)
        client = TestClient(app)

        def lines():
            found = [json.loads(line) for line in text.getvalue().splitlines()]
            return [line for line in found if line["logger"].startswith("adapterhub")]

        return client, lines, text

    yield start
    root.handlers[:], level = before
    root.setLevel(level)


def test_all_lines_of_a_request_carry_its_id(logged):
    client, lines, _ = logged()
    response = client.post("/answer?prompt=secret", json={"prompt": SECRET})
    at_work, line = lines()
    assert at_work["message"] == "at work"
    assert at_work["request_id"] == line["request_id"] == response.headers["x-request-id"]
    assert (
        line.items()
        >= {
            "level": "info",
            "message": "request",
            "method": "POST",
            "path": "/answer",
            "status": 200,
            "bytes": len(response.content),
            "adapter_digest": "sha256:abc",
            "key": "0123456789ab",
        }.items()
    )
    assert line["time"].endswith("Z")
    assert 0 <= line["first_seconds"] <= line["seconds"]


def test_a_valid_id_of_the_client_is_used(logged):
    client, lines, _ = logged()
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 65, False), ('"}', False)):
        headers = {"x-request-id": given}
        response = client.post("/answer", json={"prompt": "p"}, headers=headers)
        assert (response.headers["x-request-id"] == given) is kept
        assert lines()[-1]["request_id"] == response.headers["x-request-id"]


def test_requests_at_the_same_time_keep_their_ids_apart(logged):
    client, lines, _ = logged()
    app = client.app

    async def send(number):
        body = json.dumps({"prompt": "p", "wait": 0.01 * (number % 3)}).encode()
        scope = {
            "type": "http", "method": "POST", "path": "/answer", "query_string": b"",
            "headers": [(b"x-request-id", f"id-{number}".encode())], "client": ("127.0.0.1", 1),
            "root_path": "", "app": app,
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)

    async def scene():
        await asyncio.gather(*(send(number) for number in range(9)))

    asyncio.run(scene())
    for number in range(9):
        mine = [line["message"] for line in lines() if line["request_id"] == f"id-{number}"]
        assert mine == ["at work", "request"]


@pytest.mark.parametrize("kind", ["pydantic", "key", "own", "runtime"])
def test_prompts_are_not_logged_even_on_errors(logged, kind):
    client, lines, text = logged()
    client.post("/answer", json={"prompt": SECRET})
    client.post(f"/fail?kind={kind}", json={"prompt": SECRET})
    assert SECRET not in text.getvalue()
    assert "grandmother" not in text.getvalue()
    first, second = (line["error"] for line in lines() if "error" in line)
    messages = {"own": "prompt: is too long", "runtime": "out of memory"}
    assert first[0]["message"] == messages.get(kind, "(left out: it may quote a prompt)")
    assert any(" fail" in frame for frame in first[0]["frames"])
    assert [each["type"] for each in second] == ["builtins.RuntimeError", "builtins.ValueError"]


def test_prompts_are_logged_if_enabled(logged):
    client, lines, _ = logged(prompts=True)
    client.post("/answer", json={"prompt": SECRET})
    line = lines()[-1]
    assert json.loads(line["request"])["prompt"] == SECRET
    assert json.loads(line["response"])["text"] == SECRET
    client.post("/fail?kind=key", json={"prompt": SECRET})
    assert SECRET in lines()[-3]["error"][0]["message"]


def test_a_stream_is_logged_when_it_ends(logged):
    client, lines, _ = logged()
    assert client.get("/stream").content == b"x" * 30
    (line,) = lines()
    assert line["bytes"] == 30
    assert line["seconds"] - line["first_seconds"] > 0.03


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("error", 1)])
def test_the_level_overrides_that_of_commands(level, count):
    package, root = logging.getLogger("adapterhub"), logging.getLogger()
    before = root.handlers[:], root.level, package.level
    text = io.StringIO()
    try:
        package.setLevel(logging.INFO)
        configure_logging(level, stream=text)
        for write in (LOG.debug, LOG.info, LOG.error):
            write("a line")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        package.setLevel(before[2])
    assert len(text.getvalue().splitlines()) == count


def test_line_breaks_and_quotes_are_escaped(logged):
    _, _, text = logged()
    LOG.warning("one\ntwo %s", '"}\n{"level": "forged"')
    (line,) = text.getvalue().splitlines()
    assert json.loads(line)["level"] == "warning"
