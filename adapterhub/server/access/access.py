"""The gate of the server: each request is asked who makes it, what for, and to wait its turn."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from adapterhub.access import Caller, bearer_token
from adapterhub.access.keys import PREFIX as KEY_PREFIX
from adapterhub.access.keys import hash_key
from adapterhub.errors import Forbidden, QueueFull, Unauthorized
from adapterhub.server.access.fairness import FairQueue, Ticket
from adapterhub.server.access.limits import Limits
from adapterhub.server.access.origin import check_from_here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from adapterhub.access import KeyStore, Role

#: The share in the queue of all who show no key.
_ANONYMOUS = ""
#: A key that the settings give, beside those that were created.
FIXED_KEY = Caller("settings", "manage")


class Access:
    """Who may ask for what, how much at once, and whose turn it is. For one event loop.

    Args:
        keys: that are known.
        queue: of requests that wait.
        wait_seconds: longest wait for a turn.
        clock: of seconds, the same as of the queue.
        anonymous_access: what may be done without a key; ``None`` for nothing.
        until_keyed: whether that ends with the first key that there is.
        local: whether the server listens on loopback only, so that who shows no key must be
            this machine's own, and no page of another site in its browser.
        fixed_hash: of a key that the settings give; empty for none.
    """

    def __init__(
        self,
        keys: KeyStore,
        queue: FairQueue,
        *,
        wait_seconds: float,
        clock: Callable[[], float],
        anonymous_access: Role | None = None,
        until_keyed: bool = False,
        local: bool = True,
        fixed_hash: str = "",
    ) -> None:
        self._keys = keys
        self._queue = queue
        self._wait_seconds = wait_seconds
        self._anonymous = anonymous_access
        self._until_keyed = until_keyed
        self._local = local
        self._fixed_hash = fixed_hash
        self._limits = Limits(clock)
        self._turns: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return self._queue.waiting

    @property
    def running(self) -> int:
        """Places of requests that have their turn."""
        return self._queue.held

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return who makes a request.

        Args:
            headers: of the request, found by lower-case names.

        Raises:
            Unauthorized: when a key is needed and none is shown, or one that is not known.
            Forbidden: when a page of another site asks for who shows no key.
            RegistryError: when the keys can't be read.
        """
        anonymous = self._without_key()
        secret = bearer_token(headers.get("authorization", ""))
        known = self._known(secret) if secret else None
        if known is not None:
            return known
        # clients that insist on a key send any word
        if anonymous is None or secret.startswith(KEY_PREFIX):
            raise Unauthorized(
                "the key is not known" if secret else "a key is needed",
                hint="Send one as: Authorization: Bearer ahk_…; "
                "keys are made with: adapterhub key create",
            )
        if self._local:
            check_from_here(headers)
        return Caller(None, anonymous)

    def check_adapter(self, caller: Caller, names: Sequence[str]) -> None:
        """Require that a caller may ask for adapters; the bare backbone is always allowed.

        Args:
            caller: as ``caller`` returns it.
            names: references, as the request has them.

        Raises:
            Forbidden: naming the first that is not allowed.
        """
        for name in names:
            if not caller.allows(name):
                allowed = ", ".join(caller.adapters or ())
                raise Forbidden(
                    "may not be asked for with this key",
                    place=ascii(name)[:120],
                    hint=f"It allows: {allowed}",
                )

    def require_manage(self, caller: Caller) -> None:
        """Require that a caller may change what is served.

        Raises:
            Unauthorized: when no key is shown.
            Forbidden: when the key is not for that.
        """
        if caller.role == "manage":
            return
        hint = "Make one with: adapterhub key create NAME --role manage"
        if caller.key_id is None:
            raise Unauthorized("a key with the role manage is needed", hint=hint)
        raise Forbidden("the key has the role use, and the role manage is needed", hint=hint)

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count one request of a client against the limits of its key while the block runs.

        Raises:
            QueueFull: when they allow no more now.
        """
        self._limits.check(caller)
        self._limits.enter(caller)
        try:
            yield
        finally:
            self._limits.leave(caller)

    @asynccontextmanager
    async def admit(
        self, caller: Caller, adapter: str, cost: float = 1, *, rows: int = 1
    ) -> AsyncIterator[None]:
        """Wait for a turn, and hold it while the block runs.

        A request of a client with a list in it takes one turn for each entry.

        Args:
            caller: whose request it is.
            adapter: that it asks for; of a blend its expression; empty for the bare backbone.
            cost: how much work it may be; all requests in the same unit, such as tokens.
            rows: of the engine that it takes, which is its number of answers.

        Raises:
            QueueFull: when the queue allows no more, or the wait is over.
        """
        ticket = Ticket(caller.key_id or _ANONYMOUS, adapter, cost, max(1, rows))
        dropped = self._queue.push(ticket)
        if dropped is not None:
            self._refuse(dropped, "others, who ask for less, have their turn first")
        await self._turn(ticket)
        try:
            yield
        finally:
            self._queue.end(ticket)
            self._start()

    async def _turn(self, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        turn = self._turns[ticket] = loop.create_future()
        problem = f"no turn came in {self._wait_seconds:g} seconds"
        timer = loop.call_later(self._wait_seconds, self._give_up, ticket, problem)
        self._start()
        try:
            await turn
        except asyncio.CancelledError:
            # the client has gone; its turn may have come at the same moment
            if ticket.started:
                self._queue.end(ticket)
            else:
                self._queue.leave(ticket)
            self._start()
            raise
        finally:
            timer.cancel()
            del self._turns[ticket]

    def _start(self) -> None:
        """Give turns while there are places."""
        while (ticket := self._queue.start()) is not None:
            turn = self._turns[ticket]
            if turn.done():
                # cancelled, and its task has not run since, which gives the places back
                continue
            turn.set_result(None)

    def _give_up(self, ticket: Ticket, problem: str) -> None:
        if ticket.waits:
            self._queue.leave(ticket)
            self._refuse(ticket, problem)

    def _refuse(self, ticket: Ticket, problem: str) -> None:
        """Tell who waits that no turn will come; the ticket is out of the queue."""
        turn = self._turns[ticket]
        if not turn.done():
            seconds = self._queue.retry_after(ticket.key)
            turn.set_exception(QueueFull(problem, retry_after=seconds, hint="Try again later"))

    def _known(self, secret: str) -> Caller | None:
        if hash_key(secret) == self._fixed_hash:
            return FIXED_KEY
        found = self._keys.find(secret)
        # a key of the Hub endpoint only is none here
        return found if found is not None and found.role is not None else None

    def _without_key(self) -> Role | None:
        if self._until_keyed and self._keys.has_server_keys():
            # also when the last key is taken back, nothing opens that was closed once
            self._until_keyed, self._anonymous = False, None
        return self._anonymous
