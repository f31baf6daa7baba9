"""A client for load tests that costs little: many streams of completions from one process.

Client and server share the cores of one machine, so what the client computes is missing in the
server. A library's client parses every piece of an answer into objects, and needs a good part of
a core at a few hundred pieces a second. This one looks only for where events begin and where an
answer ends. It is no client for anything else: it trusts the server to frame answers as it does.

Run as ``python http_streams.py PLAN.json`` by ``http_load.py``; imports nothing of the package.
The last line of output is JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENT = b"data: {"
_END = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_USED = re.compile(rb'"completion_tokens":(\d+)')


@dataclass(frozen=True)
class Plan:
    """What a client asks for.

    Args:
        host: of the server.
        port: of the server.
        streams: requests that run at once; each follows on the one before it.
        adapters: that the streams take in turns.
        prompt: tokens of each prompt.
        tokens: of each answer.
        seed: of the prompts.
        warm: seconds before anything is counted.
        seconds: in which is counted; then all connections are closed.
        requests: that are made in all, where the number of them is what ends it.
    """

    host: str
    port: int
    streams: int
    adapters: int
    prompt: int
    tokens: int
    seed: int
    warm: float
    seconds: float
    requests: int | None = None


@dataclass
class Found:
    """What came back.

    Args:
        seconds: that were counted.
        tokens: that came in them.
        answers: that ended, in the whole time.
        statuses: of all answers; ``closed`` where the server ended a connection.
        first_token_ms: median over the answers that began in the counted time.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    answers: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    first_token_ms: float | None = None


def requests_of(plan: Plan, stream: int) -> Iterator[tuple[str, list[int], int]]:
    """Yield the requests of a stream: adapter, prompt, and tokens of the answer.

    The first answers have different lengths, so that the streams don't go in step afterwards.
    """
    draw = random.Random(f"{plan.seed} {stream}")
    tokens = draw.randint(1, plan.tokens)
    while True:
        prompt = [draw.randrange(100, 20000) for _ in range(plan.prompt)]
        yield f"adapter{stream % plan.adapters}", prompt, tokens
        tokens = plan.tokens


class Load:
    """Counts what all streams of a plan receive.

    Args:
        plan: that is followed.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.found = Found()
        self.over = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._last = self._began
        self._left = plan.requests
        self._running = 0
        self._events = 0
        self._ended = (0, 0)
        self._firsts: list[float] = []

    def may_ask(self) -> bool:
        """Count one more request, if there is to be one."""
        if self._left is not None:
            if not self._left:
                return False
            self._left -= 1
        self._running += 1
        return True

    def got(self, events: int) -> None:
        """Count events of an answer."""
        if self._counts():
            self._events += events

    def first(self, asked: float) -> None:
        """Take note of the first event of an answer."""
        if self._counts() and asked >= self._began + self.plan.warm:
            self._firsts.append(time.perf_counter() - asked)

    def ended(self, status: str, events: int, tokens: int) -> None:
        """Take note of the end of an answer with its events and the tokens that it tells of."""
        self.found.statuses[status] = self.found.statuses.get(status, 0) + 1
        self._running -= 1
        self._last = time.perf_counter()
        if status == "200":
            self.found.answers += 1
            self._ended = (self._ended[0] + events, self._ended[1] + tokens)
        if self._left == 0 and not self._running and not self.over.done():
            self.over.set_result(None)

    def result(self) -> Found:
        """Return what was found; tokens from events, as many as answers that ended had of each."""
        plan, (events, tokens) = self.plan, self._ended
        made = self._last - self._began
        self.found.seconds = plan.seconds if plan.requests is None else made
        self.found.tokens = self._events * (tokens / events if events else 1.0)
        if self._firsts:
            self.found.first_token_ms = round(statistics.median(self._firsts) * 1000, 1)
        return self.found

    def _counts(self) -> bool:
        if self.plan.requests is not None:
            return True
        return (
            self.plan.warm <= time.perf_counter() - self._began < self.plan.warm + self.plan.seconds
        )


class Stream(asyncio.Protocol):
    """One connection that asks again as soon as it is answered.

    Args:
        load: that counts.
        number: of the stream.
    """

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._requests = requests_of(load.plan, number)
        self._transport: Any = None
        self._waits = False

    def connection_made(self, transport: Any) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count the events in a piece of an answer."""
        if not self._status:
            data = self._head + data
            if b"\r\n\r\n" not in data:
                self._head = data
                return
            self._status = data[9:12].decode()
            head, _, data = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            self._length = int(length[1]) if length else None
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that ended before its answer did."""
        del exc
        if self._waits:
            self._load.ended(f"closed after {self._status or 'nothing'}", 0, 0)

    def _ask(self) -> None:
        self._head = self._tail = b""
        self._status, self._length, self._events = "", None, 0
        if not self._load.may_ask():
            self._transport.close()
            return
        model, prompt, tokens = next(self._requests)
        body = json.dumps(
            {
                "model": model,
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._load.plan.host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._waits = True
        self._asked = time.perf_counter()
        self._transport.write((head + body).encode())

    def _take(self, data: bytes) -> None:
        """Count what a piece adds; what ends it is looked for across pieces."""
        held = len(self._tail)
        whole = self._tail + data
        events = whole.count(_EVENT) - self._tail.count(_EVENT)
        if events and not self._events:
            self._load.first(self._asked)
        self._events += events
        self._load.got(events)
        if self._length is not None:
            self._length -= len(whole) - held
        # the usage is in the last event, far shorter than this
        self._tail = whole[-1024:]
        if self._length == 0 or (self._length is None and whole.endswith(_END)):
            self._end()

    def _end(self) -> None:
        used = _USED.findall(self._tail)
        self._waits = False
        # the last event tells of the usage and has no token
        self._load.got(-1 if used else 0)
        # an answer that breaks off with an error has a status of 200 all the same
        status = "200 without an end" if self._status == "200" and not used else self._status
        self._load.ended(status, self._events - 1, int(used[-1]) if used else 0)
        if status == "200":
            self._ask()
        else:
            # told to come again later
            asyncio.get_running_loop().call_later(0.5, self._ask)


async def follow(plan: Plan) -> Found:
    """Follow a plan to its end."""
    loop = asyncio.get_running_loop()
    load = Load(plan)
    for number in range(plan.streams):
        await loop.create_connection(
            lambda number=number: Stream(load, number), plan.host, plan.port
        )
    limit = plan.warm + plan.seconds if plan.requests is None else plan.seconds
    await asyncio.wait([load.over], timeout=limit)
    return load.result()


def main() -> None:
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(asyncio.run(follow(plan)))))


if __name__ == "__main__":
    main()
