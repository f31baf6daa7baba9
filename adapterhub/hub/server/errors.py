"""Errors in the words that the Hub's clients look for."""

from __future__ import annotations

from adapterhub.http.errors import HTTPError

#: Response header with the commit that a response is about.
COMMIT_HEADER = "X-Repo-Commit"


def no_repository(name: str) -> HTTPError:
    """Return the error for a repository that does not exist or that the caller may not see."""
    return HTTPError(404, "repository not found", code="RepoNotFound", place=name)


def no_revision(name: str, revision: str) -> HTTPError:
    """Return the error for a revision that does not exist."""
    return HTTPError(404, f"has no revision {revision!r}", code="RevisionNotFound", place=name)


def no_entry(path: str, sha: str = "") -> HTTPError:
    """Return the error for a file that is not in the revision ``sha``."""
    headers = {COMMIT_HEADER: sha} if sha else {}
    problem = "is not in this revision"
    return HTTPError(404, problem, code="EntryNotFound", place=path, headers=headers)
