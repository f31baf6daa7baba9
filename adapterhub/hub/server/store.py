"""Repositories with revisions, branches and tags, on top of the registry."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME
from adapterhub.backbones.folder import default_root
from adapterhub.errors import RefError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server import queries
from adapterhub.hub.server.blobstore import BlobStore, Staged, git_name
from adapterhub.hub.server.bridge import Bridge
from adapterhub.hub.server.queries import find
from adapterhub.hub.server.records import (
    MAIN,
    Add,
    new_revision,
    no_entry,
    no_repository,
    no_revision,
    now,
)
from adapterhub.hub.server.schema import HUB_SCHEMA
from adapterhub.hub.server.settings import HubSettings
from adapterhub.hub.server.tree import apply, check_content, check_path, check_ref_name
from adapterhub.refs import check_name
from adapterhub.registry import Registry
from adapterhub.registry.blobs import Blobs
from adapterhub.registry.database import Database
from adapterhub.registry.layout import Layout
from adapterhub.registry.private_files import is_exposed
from adapterhub.registry.storage import no_hook

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from adapterhub.hub.server.queries import FoundRepository, Search
    from adapterhub.hub.server.records import (
        Commit,
        Ref,
        RefKind,
        Repository,
        Revision,
        TreeFile,
    )

_SHA = re.compile(r"[0-9a-f]{40}")
#: Number of versions that are added in one transaction.
_BATCH = 500
_KINDS: tuple[RefKind, ...] = ("branch", "tag")


class RepoStore:
    """The repositories of one registry, safe for use by several processes and threads at once.

    A version of the registry named ``owner/name`` is a revision of the repository with that name,
    tagged ``v3`` for version 3, and a commit that makes main a complete artifact is a version.
    Aliases of the registry, ``prod`` or ``latest``, and digests name revisions too, where no branch
    or tag has that name.
    """

    def __init__(
        self,
        root: Path | None = None,
        settings: HubSettings | None = None,
        *,
        on_step: Callable[[str], None] = no_hook,
    ) -> None:
        self.settings = settings or HubSettings()
        home = root if root is not None else default_root()
        self._on_step = on_step
        self.registry = Registry(home, on_step=on_step)
        self._layout = Layout(self.registry.folder)
        self.database = Database(self._layout.folder / "hub.sqlite3", HUB_SCHEMA)
        exposed = is_exposed(self.database.path)
        self.database.prepare()
        if exposed:
            # whoever read the key that signs upload links could still make links
            self._replace_secrets()
        blobs = Blobs(self._layout)
        self.blobs = BlobStore(blobs, Database(self._layout.index))
        self._bridge = Bridge(self.registry, self._layout, blobs, self.settings.max_inline)

    def uses_blob(self, sha256: str) -> bool:
        """Return whether the endpoint uses a blob, for ``Registry.collect``."""
        with self.database.reading() as db:
            return queries.uses_blob(db, sha256, self._upload_limit())

    def staging(self) -> AbstractContextManager[Path]:
        """Create a temporary folder beside the blobs, removed afterwards."""
        return self._layout.staged()

    def secret(self, name: str) -> bytes:
        """Return 32 random bytes, always the same for a name."""
        with self.database.writing() as db:
            row = (name, secrets.token_bytes(32))
            db.execute("INSERT OR IGNORE INTO secrets (name, value) VALUES (?, ?)", row)
            found = db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return bytes(found["value"])

    def _replace_secrets(self) -> None:
        with self.database.writing() as db:
            db.execute("DELETE FROM secrets")

    def create(self, name: str, *, private: bool, author: str) -> Repository:
        """Create a repository with one empty commit on main."""
        check_name(name)
        self._add_new_versions(name)
        with self.database.writing() as db:
            if queries.repository(db, name):
                raise HTTPError(409, "a repository with this name exists", place=name)
            made = queries.add_repository(db, name, private=private, created=now())
            first = new_revision(None, {}, author=author, title="initial commit", time=made.created)
            queries.add_revision(db, made.id, first, {})
            queries.set_ref(db, made.id, "branch", MAIN, first.sha)
        return made

    def get(self, name: str) -> Repository:
        """Return a repository."""
        try:
            check_name(name)
        except RefError as error:
            raise no_repository(name) from error
        self._add_new_versions(name)
        with self.database.reading() as db:
            return _require(db, name)

    def search(self, search: Search) -> tuple[list[FoundRepository], str | None]:
        """Return one page of the repositories that fit."""
        self.add_all_versions()
        with self.database.reading() as db:
            return find(db, search)

    def add_all_versions(self) -> int:
        """Add every version named ``owner/name`` that is missing; return their number."""
        with self.database.reading() as db:
            waiting = self._bridge.all_waiting(db)
        for start in range(0, len(waiting), _BATCH):
            # other writers can proceed in between
            with self.database.writing() as db:
                for version in waiting[start : start + _BATCH]:
                    self._bridge.add_version(db, version)
        return len(waiting)

    def set_private(self, name: str, private: bool) -> None:
        """Make a repository private or public."""
        with self.database.writing() as db:
            row = (private, _require(db, name).id)
            db.execute("UPDATE repositories SET private = ? WHERE id = ?", row)

    def delete(self, name: str) -> None:
        """Delete a repository; the versions of its name stay in the registry, hidden."""
        self._add_new_versions(name)
        with self.database.writing() as db:
            repository = _require(db, name)
            queries.withdraw(db, name, queries.last_version(db, name))
            db.execute("DELETE FROM repositories WHERE id = ?", (repository.id,))

    def move(self, name: str, target: str) -> None:
        """Rename a repository; its head becomes a version of the new name."""
        check_name(target)
        self._add_new_versions(name)
        self._add_new_versions(target)
        with self.database.writing() as db:
            repository = _require(db, name)
            if queries.repository(db, target):
                raise HTTPError(409, "a repository with this name exists", place=target)
            queries.withdraw(db, name, queries.last_version(db, name))
            db.execute("DELETE FROM versions WHERE repository = ?", (repository.id,))
            db.execute("UPDATE repositories SET name = ? WHERE id = ?", (target, repository.id))
            head = self._find(db, _require(db, target), MAIN)
            tree = queries.tree(db, repository.id, head.sha)
            self._put(db, _require(db, target), tree, head)

    def revision(self, repository: Repository, name: str) -> Revision:
        """Return the revision of a branch, a tag, a commit, an alias or a digest."""
        with self.database.reading() as db:
            return self._find(db, repository, name)

    def tree(self, repository: Repository, sha: str) -> dict[str, TreeFile]:
        """Return the files of a revision by path, sorted."""
        with self.database.reading() as db:
            return queries.tree(db, repository.id, sha)

    def file(self, repository: Repository, revision: str, path: str) -> tuple[Revision, TreeFile]:
        """Return a revision and one file of it."""
        with self.database.reading() as db:
            found = self._find(db, repository, revision)
            file = queries.file(db, repository.id, found.sha, path)
        if file is None:
            raise no_entry(path, found.sha)
        return found, file

    def history(self, repository: Repository, sha: str, *, limit: int) -> list[Revision]:
        """Return a revision and its ancestors, the newest first."""
        found: list[Revision] = []
        with self.database.reading() as db:
            at: str | None = sha
            while at is not None and len(found) < limit:
                revision = queries.revision(db, repository.id, at)
                if revision is None:
                    break
                found.append(revision)
                at = revision.parent
        return found

    def refs(self, repository: Repository) -> tuple[Ref, ...]:
        """Return all branches and tags."""
        with self.database.reading() as db:
            return queries.refs(db, repository.id)

    def add_ref(self, repository: Repository, kind: RefKind, name: str, revision: str) -> None:
        """Create a branch or a tag."""
        check_ref_name(name)
        with self.database.writing() as db:
            if queries.ref(db, repository.id, kind, name):
                raise HTTPError(409, f"the {kind} {name!r} exists", place=repository.name)
            found = self._find(db, repository, revision)
            queries.set_ref(db, repository.id, kind, name, found.sha)

    def delete_ref(self, repository: Repository, kind: RefKind, name: str) -> None:
        """Delete a branch or a tag."""
        if (kind, name) == ("branch", MAIN):
            raise HTTPError(403, "main cannot be deleted", place=repository.name)
        with self.database.writing() as db:
            if not queries.delete_ref(db, repository.id, kind, name):
                raise no_revision(repository.name, name)

    def add_uploads(self, repository: Repository, staged: list[Staged]) -> None:
        """Store files for a later commit to a repository."""
        small = [each for each in staged if each.size <= self.settings.max_inline]
        names = {each.sha256: git_name(each.path) for each in small}
        # recorded first, so that ``Registry.collect`` keeps them
        with self.database.writing() as db:
            queries.add_git_names(db, names)
            queries.forget_uploads(db, self._upload_limit())
            for each in staged:
                queries.add_upload(db, repository.id, each.sha256, each.size)
        self._on_step("noted uploads")
        self.blobs.place(staged)
        self._on_step("placed uploads")

    def known_sizes(self, repository: Repository) -> dict[str, int]:
        """Return the sizes of the files that a commit may use, by sha256."""
        with self.database.reading() as db:
            return queries.sizes(db, repository.id, self._upload_limit())

    def git_names(self, digests: set[str]) -> dict[str, str]:
        """Return git's name of each sha256, computed once and stored."""
        with self.database.reading() as db:
            query = "SELECT oid FROM git_names WHERE sha256 = ?"
            rows = {digest: db.execute(query, (digest,)).fetchone() for digest in digests}
        found = {digest: str(row["oid"]) for digest, row in rows.items() if row}
        new = {digest: git_name(self.blobs.path(digest)) for digest in digests - found.keys()}
        if new:
            with self.database.writing() as db:
                queries.add_git_names(db, new)
        return found | new

    def commit(self, repository: Repository, branch: str, commit: Commit, author: str) -> Revision:
        """Commit to a branch; a commit that makes main a complete artifact is a version too."""
        self._store_files(repository, commit)
        with self.database.writing() as db:
            head = queries.ref(db, repository.id, "branch", branch)
            if head is None:
                raise no_revision(repository.name, branch)
            if commit.parent not in (None, head):
                raise HTTPError(
                    412,
                    f"the branch is at {head}, the commit expects {commit.parent}",
                    place=f"{repository.name}@{branch}",
                    hint="Read the branch again and repeat the commit",
                )
            before = queries.tree(db, repository.id, head)
            sizes = queries.sizes(db, repository.id, self._upload_limit())
            tree = apply(before, commit.operations, sizes, self.settings)
            new = new_revision(
                head, tree, author=author, title=commit.title, message=commit.message, time=now()
            )
            queries.add_revision(db, repository.id, new, tree)
            queries.set_ref(db, repository.id, "branch", branch, new.sha)
            self._on_step("added revision")
            if branch == MAIN:
                self._put(db, repository, tree, new)
                queries.describe(db, repository.id, self._bridge.card(tree), new.time)
            elif MANIFEST_NAME in tree:
                self._bridge.check(tree)
            self._on_step("described")
        self._on_step("committed revision")
        return new

    def _store_files(self, repository: Repository, commit: Commit) -> None:
        """Check the files that a commit adds and store those sent with it."""
        adds = [each for each in commit.operations if isinstance(each, Add)]
        for add in adds:
            check_path(add.path)
            file = add.staged or self.blobs.path(add.sha256)
            if file.exists():
                check_content(add.path, file)
        staged = [
            Staged(add.staged, add.sha256, add.size or 0) for add in adds if add.staged is not None
        ]
        if staged:
            self.add_uploads(repository, staged)

    def _put(
        self,
        db: sqlite3.Connection,
        repository: Repository,
        tree: dict[str, TreeFile],
        revision: Revision,
    ) -> None:
        version = self._bridge.put(repository.name, tree, revision)
        if version is not None:
            queries.link_version(db, repository.id, version.version, version.digest, revision.sha)

    def _add_new_versions(self, name: str) -> None:
        """Add the versions and signatures of a name that are missing."""
        if "/" not in name:
            return
        with self.database.reading() as db:
            waiting = self._bridge.waiting(db, name)
            late = self._bridge.late_signatures(db, name)
        if waiting or late:
            with self.database.writing() as db:
                self._bridge.add_late_signatures(db, name)
                for version in waiting:
                    self._bridge.add_version(db, version)

    def _find(self, db: sqlite3.Connection, repository: Repository, name: str) -> Revision:
        short = name.removeprefix("refs/heads/").removeprefix("refs/tags/")
        shas = [queries.ref(db, repository.id, kind, short) for kind in _KINDS]
        shas.append(name if _SHA.fullmatch(name) else None)
        for sha in shas:
            found = queries.revision(db, repository.id, sha) if sha else None
            if found is not None:
                return found
        sha = self._bridge.selected(db, repository, name)
        found = queries.revision(db, repository.id, sha) if sha else None
        if found is None:
            raise no_revision(repository.name, name)
        return found

    def _upload_limit(self) -> float:
        return time.time() - self.settings.upload_seconds


def _require(db: sqlite3.Connection, name: str) -> Repository:
    found = queries.repository(db, name)
    if found is None:
        raise no_repository(name)
    return found
