"""Repositories, revisions, files and commits of the endpoint, and the errors for unknown ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Branch of every repository.
MAIN = "main"
RefKind = Literal["branch", "tag"]
#: Response header with the commit that a response is about.
COMMIT_HEADER = "X-Repo-Commit"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository.

    Args:
        id: Id in the database.
        name: Name, ``owner/name``.
        private: Whether only callers with a scope for its owner see it.
        created: Time of creation, ISO 8601 in UTC.
        modified: Time of its last commit.
        pipeline_tag: Task from the card on main.
        library: Library from the card on main.
        card: Metadata of the card on main.
        tags: Tags from the card on main, sorted.
    """

    id: int
    name: str
    private: bool
    created: str
    modified: str
    pipeline_tag: str | None
    library: str | None
    card: Mapping[str, Any] = field(hash=False)
    tags: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a revision.

    Args:
        sha256: Digest of the content in hex.
        size: Size in bytes.
        lfs: Whether it is listed as a Git-LFS file.
    """

    sha256: str
    size: int
    lfs: bool

    def etag(self, oid: str) -> str:
        """Return the entity tag without quotes, given git's name of the content."""
        return self.sha256 if self.lfs else oid


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit.

    Args:
        sha: Name of the commit, 40 hex digits.
        parent: Name of the commit before; ``None`` for the first.
        author: User who made it.
        time: Time of the commit, ISO 8601 in UTC.
        title: First line of the message.
        message: Rest of the message.
    """

    sha: str
    parent: str | None
    author: str
    time: str
    title: str
    message: str


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag.

    Args:
        kind: Branch or tag.
        name: Name without ``refs/heads/`` or ``refs/tags/``.
        sha: Name of the commit that it points to.
    """

    kind: RefKind
    name: str
    sha: str


@dataclass(frozen=True, slots=True)
class HeadVersion:
    """A version of the registry that is the head of a repository."""

    repository: int
    version: int
    digest: str
    sha: str


@dataclass(frozen=True, slots=True)
class Add:
    """An operation of a commit: put a file at a path.

    Args:
        path: Path in the repository.
        sha256: Digest of the content in hex.
        size: Size in bytes; ``None`` if the commit does not say.
        staged: Content that was sent with the commit; ``None`` if it was uploaded before.
    """

    path: str
    sha256: str
    size: int | None
    staged: Path | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """An operation of a commit: remove a file, or a folder with its content."""

    path: str
    folder: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """A requested commit.

    Args:
        title: First line of the message.
        message: Rest of the message.
        parent: Expected head of the branch; ``None`` for any.
        operations: Operations in order.
    """

    title: str
    message: str
    parent: str | None
    operations: tuple[Add | Delete, ...]


def new_revision(
    parent: str | None,
    tree: Mapping[str, TreeFile],
    *,
    author: str,
    title: str,
    message: str = "",
    time: str,
) -> Revision:
    """Return the revision with these files; equal arguments give equal names."""
    files = [(path, file.sha256, file.size, file.lfs) for path, file in sorted(tree.items())]
    content = json.dumps([parent, author, time, title, message, files])
    # clients expect a name in the form of git; content is identified by sha256
    sha = sha1(content.encode(), usedforsecurity=False).hexdigest()
    return Revision(sha, parent, author, time, title, message)


def now() -> str:
    """Return the current time in the format of the Hub."""
    return hub_time(datetime.now(UTC).isoformat())


def hub_time(text: str) -> str:
    """Return a time in the format of the Hub: ISO 8601 in UTC with microseconds and ``Z``."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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
