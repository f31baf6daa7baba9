"""A cheap client for load tests: many streams of completions from one process.

Client and server share the cores of one machine, so the client's work slows down the server. The
client of a library parses every chunk into objects and needs a large part of a core at a few
hundred chunks per second. This one only looks for the starts of events and the ends of answers,
and relies on how this server frames them, so it is no client for anything else.

``http_load.py`` runs it as ``python http_streams.py PLAN.json``; it imports nothing of the package.
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
    """Requests of a measurement.

    Args:
        host: Address of the server.
        port: Port of the server.
        streams: Number of simultaneous streams of requests.
        adapters: Number of adapters, which the streams take in turn.
        prompt: Tokens of each prompt.
        tokens: Tokens of each answer.
        seed: Seed of the prompts.
        warm: Seconds before anything is counted.
        seconds: Seconds that are counted; then all connections are closed.
        requests: Number of all requests, if that ends the measurement.
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
    """Results of a measurement.

    Args:
        seconds: Counted seconds.
        tokens: Tokens received in them.
        answers: Finished answers, in the whole time.
        statuses: Statuses of all answers; ``closed`` if the server closed a connection.
        first_token_ms: Median time to first token of the answers that started in the counted time.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    answers: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    first_token_ms: float | None = None


def requests_of(plan: Plan, stream: int) -> Iterator[tuple[str, list[int], int]]:
    """Yield the requests of a stream: adapter, prompt, and tokens of the answer.

    The first answers have different lengths, so that the streams are not synchronous.
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
        plan: Requests of the measurement.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.found = Found()
        self.over = asyncio.get_running_loop().create_future()
        self._started = time.perf_counter()
        self._last = self._started
        self._left = plan.requests
        self._running = 0
        self._events = 0
        self._ended = (0, 0)
        self._firsts: list[float] = []

    def may_send(self) -> bool:
        """Count one more request, if there are any left."""
        if self._left is not None:
            if not self._left:
                return False
            self._left -= 1
        self._running += 1
        return True

    def received(self, events: int) -> None:
        """Count events of an answer."""
        if self._counts():
            self._events += events

    def first(self, sent: float) -> None:
        """Record the first event of an answer."""
        if self._counts() and sent >= self._started + self.plan.warm:
            self._firsts.append(time.perf_counter() - sent)

    def ended(self, status: str, events: int, tokens: int) -> None:
        """Record the end of an answer, with its events and the tokens that it reports."""
        self.found.statuses[status] = self.found.statuses.get(status, 0) + 1
        self._running -= 1
        self._last = time.perf_counter()
        if status == "200":
            self.found.answers += 1
            self._ended = (self._ended[0] + events, self._ended[1] + tokens)
        if self._left == 0 and not self._running and not self.over.done():
            self.over.set_result(None)

    def result(self) -> Found:
        """Return the results; tokens are estimated from events by the ratio of finished answers."""
        plan, (events, tokens) = self.plan, self._ended
        made = self._last - self._started
        self.found.seconds = plan.seconds if plan.requests is None else made
        self.found.tokens = self._events * (tokens / events if events else 1.0)
        if self._firsts:
            self.found.first_token_ms = round(statistics.median(self._firsts) * 1000, 1)
        return self.found

    def _counts(self) -> bool:
        if self.plan.requests is not None:
            return True
        return (
            self.plan.warm
            <= time.perf_counter() - self._started
            < self.plan.warm + self.plan.seconds
        )


class Stream(asyncio.Protocol):
    """One connection, which sends its next request as soon as an answer ends.

    Args:
        load: Counters.
        number: Number of the stream.
    """

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._requests = requests_of(load.plan, number)
        self._transport: Any = None
        self._waiting = False

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count the events in a chunk of an answer."""
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
        if self._waiting:
            self._load.ended(f"closed after {self._status or 'nothing'}", 0, 0)

    def _send(self) -> None:
        self._head = self._tail = b""
        self._status, self._length, self._events = "", None, 0
        if not self._load.may_send():
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
        self._waiting = True
        self._sent = time.perf_counter()
        self._transport.write((head + body).encode())

    def _take(self, data: bytes) -> None:
        """Count the events of a chunk; the end of an answer may span chunks."""
        held = len(self._tail)
        whole = self._tail + data
        events = whole.count(_EVENT) - self._tail.count(_EVENT)
        if events and not self._events:
            self._load.first(self._sent)
        self._events += events
        self._load.received(events)
        if self._length is not None:
            self._length -= len(whole) - held
        # the usage is in the last event, far shorter than this
        self._tail = whole[-1024:]
        if self._length == 0 or (self._length is None and whole.endswith(_END)):
            self._end()

    def _end(self) -> None:
        used = _USED.findall(self._tail)
        self._waiting = False
        # the last event has the usage and no token
        self._load.received(-1 if used else 0)
        # an interrupted answer has the status 200 as well
        status = "200 without an end" if self._status == "200" and not used else self._status
        self._load.ended(status, self._events - 1, int(used[-1]) if used else 0)
        if status == "200":
            self._send()
        else:
            # rejected, so it is sent again later
            asyncio.get_running_loop().call_later(0.5, self._send)


async def follow(plan: Plan) -> Found:
    """Send the requests of a plan."""
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
