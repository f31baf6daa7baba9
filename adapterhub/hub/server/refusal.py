"""What the endpoint answers when it does not do what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Tells the clients of which commit an answer is.
COMMIT_HEADER = "X-Repo-Commit"


class Refusal(AdapterHubError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        problem: as in ``AdapterHubError``.
        code: value of ``X-Error-Code``, which the clients tell errors apart by.
        place: as in ``AdapterHubError``.
        hint: as in ``AdapterHubError``.
        headers: of the answer, beside those of every error.
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


def no_repository(name: str) -> Refusal:
    """Return the answer for a repository that is not there or not to be seen."""
    return Refusal(404, "repository not found", code="RepoNotFound", place=name)


def no_revision(name: str, revision: str) -> Refusal:
    """Return the answer for a revision that is not there."""
    return Refusal(404, f"has no revision {revision!r}", code="RevisionNotFound", place=name)


def no_entry(path: str, sha: str = "") -> Refusal:
    """Return the answer for a file that is not there; ``sha`` is of the revision."""
    headers = {COMMIT_HEADER: sha} if sha else {}
    problem = "is not in this revision"
    return Refusal(404, problem, code="EntryNotFound", place=path, headers=headers)
