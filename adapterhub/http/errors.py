"""Errors that are answered with an HTTP status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Mapping


class HTTPError(AdapterHubError):
    """A request that is answered with an error status.

    Args:
        status: HTTP status of the response.
        problem: What is wrong, without a full stop.
        code: Machine-readable code by which clients distinguish errors.
        place: Where it is wrong.
        hint: How the client can fix it.
        headers: Response headers beside those of every error.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        code: str = "",
        place: str = "",
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        super().__init__(problem, place=place, hint=hint)


def too_large(what: str, limit: int) -> HTTPError:
    """Return the error for something larger than ``limit`` bytes."""
    return HTTPError(413, f"{what} is larger than the limit of {limit} bytes")
