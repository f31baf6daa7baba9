"""Who may ask for what, and when: here everybody, at once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence


class Unauthorized(AdapterHubError):
    """A request without a key that is known."""


class Forbidden(AdapterHubError):
    """A request that its key does not allow."""


class QueueFull(AdapterHubError):
    """A request too many; ``retry_after`` is in seconds."""

    def __init__(self, problem: str, *, retry_after: float, place: str = "") -> None:
        self.retry_after = retry_after
        super().__init__(problem, place=place)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Args:
        key_id: of the key, if there is one.
        role: ``manage`` allows to change what is served.
        adapters: names that may be asked for; ``None`` allows all.
    """

    key_id: str | None = None
    role: Literal["use", "manage"] = "manage"
    adapters: tuple[str, ...] | None = None


class Access:
    """Open to everybody."""

    #: requests that wait for their turn
    queued = 0

    def caller(self, _headers: Mapping[str, str]) -> Caller:
        """Return who sends a request."""
        return Caller()

    def check_adapter(self, caller: Caller, names: Sequence[str]) -> None:
        """Require that a caller may ask for adapters."""
        allowed = caller.adapters
        if allowed is not None and not set(names) <= set(allowed):
            raise Forbidden("is not allowed to this key", place=", ".join(names))

    def require_manage(self, caller: Caller) -> None:
        """Require that a caller may change what is served."""
        if caller.role != "manage":
            raise Forbidden("needs a key of the role manage")

    @asynccontextmanager
    async def admit(self, _caller: Caller, _adapter: str, _cost: int) -> AsyncIterator[None]:
        """Wait for a turn."""
        yield
