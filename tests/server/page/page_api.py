"""A test double of the server with the part of its API that the page uses."""

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from adapterhub.server.app import page_routes

BACKBONE = "smollm2-135m-instruct"
FINGERPRINT = "sha256:" + "f0" * 32


def adapter(name, version=1, task="dialogue", **changes):
    """Return an adapter as ``/v1/adapters`` lists it."""
    return {
        "name": name,
        "version": version,
        "ref": f"{name}@{version}",
        "digest": digest_of(f"{name}@{version}"),
        "aliases": [],
        "task": task,
        "labels": [],
        "method": "lora",
        "rank": 8,
        "size_bytes": 9_940_000,
        "metrics": {},
        "residency": "disk",
        "pinned": False,
        "loaded_as": [],
        "created": "2026-11-20T10:00:00+00:00",
        **changes,
    }


def digest_of(ref):
    return f"sha256:{sha256(ref.encode()).hexdigest()}"


def digests_of(model):
    """Return the digest header of an adapter, a blend or the base model."""
    refs = [] if model == BACKBONE else re.findall(r"[^*+]+@\d+", model)
    return ",".join(digest_of(ref) for ref in refs)


def some_adapters():
    return [
        adapter("support", 3, aliases=["prod"], metrics={"perplexity": 3.572}, residency="device",
                loaded_as=["support@3"], pinned=True, size_bytes=19_690_000, rank=16),
        adapter("support", 2, metrics={"perplexity": 4.01}, residency="host",
                size_bytes=19_690_000, rank=16),
        adapter("tone-friendly", 1, metrics={"perplexity": 5.22}),
        adapter("legal/summaries", 4, aliases=["staging"], residency="remote", method="prefix",
                rank=None, size_bytes=1_310_000, metrics={"rouge-l": 0.412}),
        adapter("topics", 1, "text-classification", labels=["billing", "delivery", "returns",
                "account", "other"], metrics={"accuracy": 0.938, "macro f1": 0.921,
                "loss": 0.214}, residency="device", aliases=["prod"]),
        adapter("entities", 2, "token-classification",
                labels=["O", "B-LOC", "B-PER", "I-LOC", "I-PER"],
                metrics={"f1": 0.874}, residency="host"),
    ]  # fmt: skip


@dataclass
class Api:
    """State of the test double, with the requests that it received.

    Args:
        role: Role of every caller.
        key: Required API key; ``None`` for none.
        adapters: Listed adapters.
        texts: Deltas of the answers of some models; others answer with their name.
        errors: Status, message and headers of error responses by path.
        meet: Number of streams that wait for each other after their first delta.
        endless: Whether streams never end.
        pause: Seconds between deltas.
        spans: Spans that taggers find.
        kind: Kind of the backbone.
        answer: Answer that is found in a context.
        segments: Segments of transcripts, which the base model writes if there are any.
    """

    role: str = "manage"
    key: str | None = None
    adapters: list = field(default_factory=some_adapters)
    texts: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    meet: int = 0
    endless: bool = False
    pause: float = 0.0
    spans: list = field(default_factory=list)
    segments: list = field(default_factory=list)
    kind: str = "decoder"
    answer: str | None = None
    scores: dict = field(default_factory=lambda: {"billing": 0.91, "delivery": 0.06, "other": 0.03})
    report: dict = field(default_factory=dict)
    started: int = 0
    met: int = 0
    left: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    stats_requests: int = 0
    url: str = ""

    def sent(self, path):
        """Return the bodies of the requests to a path."""
        return [body for where, body in self.calls if where == path]

    def find(self, ref):
        return next(each for each in self.adapters if each["ref"] == ref)


@contextmanager
def serving(api):
    """Serve the page and the API on a free port of loopback."""
    config = uvicorn.Config(make_app(api), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    api.url = f"http://127.0.0.1:{port}"
    try:
        yield api
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)


def make_app(api):
    def authorized(handler, role="use"):
        async def answer(request):
            path = request.url.path
            raw = await request.body()
            form = request.headers.get("content-type", "").startswith("multipart/form-data")
            body = raw if form else json.loads(raw or b"null")
            if request.method == "POST":
                api.calls.append((path, body))
            if api.key and request.headers.get("authorization") != f"Bearer {api.key}":
                return error_response(401, "An API key is required")
            if role == "manage" and api.role != "manage":
                return error_response(403, "An API key with the role manage is required")
            if path in api.errors:
                return error_response(*api.errors[path])
            return await handler(request, body)

        return answer

    async def me(_request, _body):
        return respond({"key_id": "desk" if api.key else None, "role": api.role, "adapters": None})

    async def models(_request, _body):
        listed = [{"id": each["ref"], "object": "model", "parent": BACKBONE}
                  for each in api.adapters]  # fmt: skip
        base = {"id": BACKBONE, "object": "model", "parent": None, "root": BACKBONE,
                "kind": api.kind, "transcribes": bool(api.segments)}  # fmt: skip
        return respond({"object": "list", "data": [base, *listed]})

    async def adapters(_request, _body):
        return respond({"object": "list", "data": api.adapters})

    async def load(_request, body):
        found = api.find(body["ref"])
        found["residency"] = "device"
        found["loaded_as"] = [body.get("name", body["ref"])]
        return respond({"ref": found["ref"], "digest": found["digest"]})

    async def unload(_request, body):
        found = next(each for each in api.adapters if body["name"] in each["loaded_as"])
        found["loaded_as"].remove(body["name"])
        found["residency"] = "host"
        return respond({"ref": found["ref"], "digest": found["digest"]})

    async def pin(_request, body):
        found = api.find(body["ref"])
        found["pinned"] = body["pinned"]
        return respond({"ref": found["ref"], "digest": found["digest"]})

    async def alias(_request, body):
        found = api.find(body["ref"])
        found["aliases"].append(body["alias"])
        return respond({"ref": found["ref"], "digest": found["digest"]})

    async def report(request, _body):
        found = api.find(request.query_params["ref"])
        empty = {"curves": [], "before": {}, "after": {}}
        known = {key: found[key] for key in ("ref", "digest", "task")}
        return respond({**known, **empty, **api.report})

    async def stats(_request, _body):
        api.stats_requests += 1
        return respond(stats_at(api.stats_requests))

    async def classify(_request, body):
        best = max(api.scores, key=api.scores.get)
        return respond(task_response(body, {"label": best, "score": api.scores[best],
                                        "scores": api.scores}))  # fmt: skip

    async def transcribe(_request, _body):
        text = "".join(each["text"] for each in api.segments)
        return respond({"text": text, "language": "zh", "segments": api.segments})

    async def tag(_request, body):
        text = body["items"][0]["input"]
        # sliced by Python, which checks the offsets of the page
        spans = [{**span, "text": text[span["start"] : span["end"]]} for span in api.spans]
        return respond(task_response(body, {"spans": spans}))

    async def answer(_request, body):
        context = body["items"][0]["input"]["context"]
        start = context.index(api.answer) if api.answer else None
        end = start + len(api.answer) if api.answer else None
        found = {"answer": api.answer, "start": start, "end": end, "score": 0.8, "no_answer": 0.1}
        return respond(task_response(body, found))

    async def generate(request, body):
        chat = request.url.path.endswith("chat/completions")
        return StreamingResponse(
            deltas(api, body, chat),
            media_type="text/event-stream",
            headers={"x-request-id": "req-1", "x-adapter-digest": digests_of(body["model"]),
                     "x-backbone-fingerprint": FINGERPRINT},
        )  # fmt: skip

    def post(path, handler, role="use"):
        return Route(path, authorized(handler, role), methods=["POST"])

    def get(path, handler):
        return Route(path, authorized(handler))

    return Starlette(
        routes=[
            *page_routes(),
            get("/v1/me", me),
            get("/v1/models", models),
            get("/v1/adapters", adapters),
            get("/v1/adapters/report", report),
            get("/v1/stats", stats),
            post("/v1/adapters/load", load, "manage"),
            post("/v1/adapters/unload", unload, "manage"),
            post("/v1/adapters/pin", pin, "manage"),
            post("/v1/adapters/alias", alias, "manage"),
            post("/v1/classify", classify),
            post("/v1/audio/transcriptions", transcribe),
            post("/v1/tag", tag),
            post("/v1/answer", answer),
            post("/v1/completions", generate),
            post("/v1/chat/completions", generate),
        ]
    )


async def deltas(api, body, chat):
    """Stream an answer in OpenAI's form."""
    model = body["model"]
    words = api.texts.get(model, ["I am ", model, "."])
    api.started += 1
    done = False
    try:
        for index, word in enumerate(words):
            yield event(chunk(chat, word))
            if index == 0 and api.meet:
                api.met += 1
                while api.met < api.meet:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(api.pause)
        while api.endless:
            yield event(chunk(chat, " more"))
            await asyncio.sleep(0.02)
        yield event(chunk(chat, "", "stop"))
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": len(words),
            "total_tokens": 7 + len(words),
        }
        yield event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"
        done = True
    finally:
        if not done:
            with suppress(asyncio.CancelledError):
                api.left.append(model)


def chunk(chat, text, finish=None):
    part = {"delta": {"content": text}} if chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish, **part}]}


def event(document):
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def task_response(body, found):
    data = [
        {"index": index, "model": item["model"], "digest": digest_of(item["model"]), **found}
        for index, item in enumerate(body["items"])
    ]
    return {"object": "list", "data": data, "backbone_fingerprint": FINGERPRINT}


def stats_at(second):
    """Return changing statistics, so that there is a curve."""
    wave = abs((second * 7) % 40 - 20)
    return {
        "running": 4 + wave // 4,
        "waiting": wave // 6,
        "queued": max(0, wave - 14),
        "requests_total": 1200 + 3 * second,
        "tokens_total": 84_000 + 260 * second,
        "tokens_per_second": 180.0 + 6 * wave,
        "time_to_first_token_ms_p50": 92.0 + 4 * wave,
        "step_ms_p50": 31.0 + wave / 2,
        "cache_used": 300 + 9 * wave,
        "cache_size": 1024,
        "resident": 5,
        "host_adapters": 12,
        "host_bytes": 184_000_000,
        "time": 1_790_000_000 + second,
    }


def respond(document):
    return JSONResponse(document, headers={"x-request-id": "req-1"})


def error_response(status, message, headers=None):
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status, {"x-request-id": "req-17", **(headers or {})})
