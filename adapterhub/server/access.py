"""Admission of requests: authentication, permissions, rate limits and a place in the fair queue."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapterhub.access import Caller, bearer_token
from adapterhub.access.keys import PREFIX, hash_key
from adapterhub.errors import Forbidden, QueueFull, SettingsError, Unauthorized
from adapterhub.server.fair_queue import FairQueue, Ticket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from adapterhub.access import KeyStore, Role
    from adapterhub.server.settings import ServerSettings

#: Share in the queue of all callers without a key.
_ANONYMOUS = ""
#: Caller with the key of the settings.
SETTINGS_CALLER = Caller("settings", "manage")
_LOCAL_NAMES = ("localhost", "ip6-localhost")
_ORIGIN_HINT = "Make a key with: adapterhub key create, and send it"
#: Window of ``Caller.rate``, in seconds.
WINDOW = 60.0
#: Suggested wait for a running request to finish, in seconds.
_CONCURRENCY_RETRY = 1.0


@dataclass(slots=True)
class _Usage:
    """Running requests of a key, and the start times of those in the window."""

    running: int = 0
    starts: deque[float] = field(default_factory=deque)


class RateLimits:
    """Counts the requests of each key that has limits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count a request of a caller while the block runs."""
        if caller.key_id is None or (caller.rate is None and caller.concurrency is None):
            yield
            return
        usage = self._usage.get(caller.key_id, _Usage())
        self._check(caller, usage)
        self._usage[caller.key_id] = usage
        usage.running += 1
        if caller.rate is not None:
            usage.starts.append(self._clock())
        try:
            yield
        finally:
            usage.running -= 1
            _drop_old(usage, self._clock())
            if not usage.running and not usage.starts:
                del self._usage[caller.key_id]

    def _check(self, caller: Caller, usage: _Usage) -> None:
        if caller.concurrency is not None and usage.running >= caller.concurrency:
            raise QueueFull(
                f"the API key has {usage.running} running requests; "
                f"its limit is {caller.concurrency}",
                retry_after=_CONCURRENCY_RETRY,
                hint="Wait until one finishes, or get a key with a higher limit",
            )
        now = self._clock()
        _drop_old(usage, now)
        if caller.rate is not None and len(usage.starts) >= caller.rate:
            # after the limit was lowered, several starts have to leave the window
            last = usage.starts[len(usage.starts) - caller.rate]
            raise QueueFull(
                f"the API key started {len(usage.starts)} requests in the last minute; "
                f"its limit is {caller.rate}",
                retry_after=last + WINDOW - now,
                hint="Send requests less often, or get a key with a higher limit",
            )


def _drop_old(usage: _Usage, now: float) -> None:
    while usage.starts and usage.starts[0] + WINDOW <= now:
        usage.starts.popleft()


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Numbers of requests by the ``model`` that they name, of those with adapters."""

    running: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)


@contextmanager
def counted(counts: Counter[str], model: str) -> Iterator[None]:
    """Count a request of a model while the block runs, unless the name is empty."""
    counts[model] += bool(model)
    try:
        yield
    finally:
        counts[model] -= bool(model)
        if not counts[model]:
            del counts[model]


class Access:
    """Admits the requests of one server. For one event loop."""

    def __init__(
        self,
        keys: KeyStore,
        settings: ServerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._queue = FairQueue(
            settings.places,
            settings.max_queue,
            clock,
            reserved_share=settings.reserved_share,
            reserved_seconds=settings.reserved_seconds,
        )
        self._queue_timeout = settings.queue_timeout
        self._limits = RateLimits(clock)
        self.models = ModelCounts()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        # callers without a key must then be local programs, not pages in a local browser
        self._local = is_loopback(settings.host)
        secret = settings.api_key.get_secret_value() if settings.api_key else ""
        self._settings_hash = hash_key(secret) if secret else ""
        self._until_keyed = settings.anonymous_access == "auto"
        self._anonymous: Role | None = None
        if settings.anonymous_access == "auto":
            self._anonymous = "manage" if self._local and not secret else None
            if not (self._local or secret or keys.has_server_keys()):
                raise SettingsError(
                    f"other machines can reach {settings.host}, and there is no API key",
                    place="host",
                    hint="Create one with: adapterhub key create NAME; "
                    "or allow access without: --anonymous-access use",
                )
        elif settings.anonymous_access != "no":
            self._anonymous = settings.anonymous_access

    @property
    def queued(self) -> int:
        """Number of waiting requests."""
        return self._queue.waiting

    @property
    def running(self) -> int:
        """Number of occupied places."""
        return self._queue.occupied

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller of a request."""
        anonymous = self._anonymous_role()
        secret = bearer_token(headers.get("authorization", ""))
        known = self._find(secret) if secret else None
        if known is not None:
            return known
        # clients that require a key send any word
        if anonymous is None or secret.startswith(PREFIX):
            raise Unauthorized(
                "the API key is unknown" if secret else "an API key is required",
                hint="Send one as: Authorization: Bearer ahk_…; "
                "create one with: adapterhub key create",
            )
        if self._local:
            check_same_origin(headers)
        return Caller(None, anonymous)

    def check_adapters(self, caller: Caller, refs: Sequence[str]) -> None:
        """Check that a caller may use adapters; the base model is always allowed."""
        for ref in refs:
            if not caller.allows(ref):
                allowed = ", ".join(caller.adapters or ())
                raise Forbidden(
                    "is not allowed with this API key",
                    place=ascii(ref)[:120],
                    hint=f"The key allows: {allowed}",
                )

    def require_manage(self, caller: Caller) -> None:
        """Check that a caller may change what is served."""
        if caller.role == "manage":
            return
        hint = "Create one with: adapterhub key create NAME --role manage"
        if caller.key_id is None:
            raise Unauthorized("an API key with the role manage is required", hint=hint)
        raise Forbidden("the API key has the role use; the role manage is required", hint=hint)

    def counted(self, caller: Caller) -> AbstractContextManager[None]:
        """Count a request against the limits of its key while a block runs; see ``RateLimits``."""
        return self._limits.counted(caller)

    @asynccontextmanager
    async def admit(
        self, caller: Caller, adapter: str, cost: float = 1, *, places: int = 1, model: str = ""
    ) -> AsyncIterator[None]:
        """Wait in the fair queue, and occupy places of the engine while the block runs.

        Each input of a request with a list waits by itself.

        Args:
            caller: Caller of the request.
            adapter: Name of the adapter or blend; empty for the base model.
            cost: Estimated work, in the same unit for all requests, such as tokens.
            places: Sequences in the engine, which is the number of answers.
            model: The ``model`` of a request with adapters, for ``models``; empty for others.
        """
        ticket = Ticket(caller.key_id or _ANONYMOUS, adapter, cost, max(1, places))
        dropped = self._queue.push(ticket)
        if dropped is not None:
            self._fail(dropped, "the queue is full, and callers with fewer requests go first")
        with counted(self.models.waiting, model):
            await self._wait(ticket)
        try:
            with counted(self.models.running, model):
                yield
        finally:
            self._queue.finish(ticket)
            self._start_next()

    async def _wait(self, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        turn = self._turns[ticket] = loop.create_future()
        timer = loop.call_later(self._queue_timeout, self._time_out, ticket)
        self._start_next()
        try:
            await turn
        except asyncio.CancelledError:
            # the client disconnected, perhaps at the moment when its request was started
            if ticket.started:
                self._queue.finish(ticket)
            else:
                self._queue.leave(ticket)
            self._start_next()
            raise
        finally:
            timer.cancel()
            del self._turns[ticket]

    def _start_next(self) -> None:
        """Start requests while there are free places."""
        while (ticket := self._queue.start()) is not None:
            turn = self._turns[ticket]
            # the task of a cancelled request gives its places back when it runs
            if not turn.done():
                turn.set_result(None)

    def _time_out(self, ticket: Ticket) -> None:
        if ticket.waits:
            self._queue.leave(ticket)
            self._fail(ticket, f"waited in the queue for {self._queue_timeout:g} seconds")

    def _fail(self, ticket: Ticket, problem: str) -> None:
        """End the wait of a request that has left the queue."""
        turn = self._turns[ticket]
        if not turn.done():
            seconds = self._queue.retry_after(ticket.key)
            turn.set_exception(QueueFull(problem, retry_after=seconds, hint="Try again later"))

    def _find(self, secret: str) -> Caller | None:
        if hash_key(secret) == self._settings_hash:
            return SETTINGS_CALLER
        caller = self._keys.find(secret)
        # some keys are for the Hub endpoint only
        return caller if caller is not None and caller.role is not None else None

    def _anonymous_role(self) -> Role | None:
        if self._until_keyed and self._keys.has_server_keys():
            # removing the last key does not open the server again
            self._until_keyed, self._anonymous = False, None
        return self._anonymous


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Check that a request to loopback was not sent by a page of another site.

    A browser lets any page send requests to ``127.0.0.1``, and a domain that resolves to it makes
    the responses readable as well. Both show in the headers.
    """
    host = headers.get("host", "")
    if host and not _may_be_local(_host_and_netloc(f"//{host}")[0]):
        raise Forbidden("is not a local name", place=f"Host {host[:120]}", hint=_ORIGIN_HINT)
    origin = headers.get("origin", "")
    if origin and _host_and_netloc(origin)[1] != host:
        raise Forbidden("is another site", place=f"Origin {origin[:120]}", hint=_ORIGIN_HINT)


def is_loopback(host: str) -> bool:
    """Return whether a name or address always refers to the local machine."""
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _may_be_local(host: str) -> bool:
    # no public site has a name of one word
    one_word = bool(host) and "." not in host and ":" not in host
    return one_word or host.endswith(".localhost") or is_loopback(host)


def _host_and_netloc(address: str) -> tuple[str, str]:
    """Return the host, and the host with its port, of an address; empty if it is invalid."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "", ""
    return parts.hostname or "", parts.netloc
