"""What the endpoint keeps: repositories, their revisions, and the files of a revision."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The branch that every repository has.
MAIN = "main"
RefKind = Literal["branch", "tag"]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository; its files are those of the revision that a branch or tag names.

    Args:
        id: of its row.
        name: ``owner/name``.
        private: whether only those with a scope for its owner see it.
        created: ISO 8601 in UTC.
        modified: time of its last commit.
        pipeline_tag: from the card on main.
        library: from the card on main.
        card: metadata of the card on main.
        tags: of the card on main, sorted.
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
        sha256: of its bytes, in hex.
        size: in bytes.
        lfs: whether it came by Git-LFS, and is listed so.
    """

    sha256: str
    size: int
    lfs: bool

    def etag(self, oid: str) -> str:
        """Return the entity tag, without quotes; ``oid`` is git's name for the bytes."""
        return self.sha256 if self.lfs else oid


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit.

    Args:
        sha: 40 hex digits.
        parent: sha of the commit before, or ``None`` for the first.
        author: user who made it.
        time: ISO 8601 in UTC.
        title: first line of the message.
        message: the rest of it.
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
        kind: which of them.
        name: without ``refs/heads/`` or ``refs/tags/``.
        sha: of the commit that it names.
    """

    kind: RefKind
    name: str
    sha: str


@dataclass(frozen=True, slots=True)
class HeadVersion:
    """A version of the registry that is the head of a repository.

    Args:
        repository: its id.
        version: counted from 1.
        digest: of the artifact.
        sha: of the revision.
    """

    repository: int
    version: int
    digest: str
    sha: str


@dataclass(frozen=True, slots=True)
class Add:
    """An operation of a commit: put a file at a path.

    Args:
        path: in the repository.
        sha256: of the bytes, in hex.
        size: in bytes; ``None`` where the commit does not say.
        staged: where the bytes lie that came with the commit; ``None`` where they were
            uploaded before it.
    """

    path: str
    sha256: str
    size: int | None
    staged: Path | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """An operation of a commit: remove a file, or a folder with all that is in it."""

    path: str
    folder: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it was asked for.

    Args:
        title: first line of the message.
        message: the rest of it.
        parent: the head that the branch must have now, where that was decided upon.
        operations: in order.
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
    """Return the revision with these files; equal arguments give the same sha."""
    files = [(path, file.sha256, file.size, file.lfs) for path, file in sorted(tree.items())]
    content = json.dumps([parent, author, time, title, message, files])
    # a name in git's form, which clients check for; the bytes are told by sha256
    sha = sha1(content.encode(), usedforsecurity=False).hexdigest()
    return Revision(sha, parent, author, time, title, message)


def now() -> str:
    """Return the time, as the Hub's clients read it."""
    return hub_time(datetime.now(UTC).isoformat())


def hub_time(text: str) -> str:
    """Return an ISO 8601 time in UTC, with microseconds and ``Z``."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
