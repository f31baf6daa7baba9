"""Synchronization between versions of the registry and revisions of repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST, Manifest
from adapterhub.errors import AdapterHubError, NotFoundError, RefError, SignatureError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server import queries
from adapterhub.hub.server.card import CARD_NAME, MAX_CARD, Card, parse_card
from adapterhub.hub.server.records import MAIN, TreeFile, hub_time, new_revision, now
from adapterhub.hub.server.tree import is_complete
from adapterhub.refs import parse_ref
from adapterhub.registry.database import Database
from adapterhub.registry.sigstore import (
    MAX_SIGNATURE,
    is_signature_name,
    parse_signature,
    signature_name,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from adapterhub.hub.server.records import Repository, Revision
    from adapterhub.registry import Registry, Version
    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Stamp
    from adapterhub.registry.layout import Layout

#: Author of revisions that were made from versions.
REGISTRY_AUTHOR = "registry"
#: Number of names up to which they are looked up one by one instead of listing all versions.
_FEW = 200


class Bridge:
    """Converter between versions of a registry and revisions of repositories."""

    def __init__(self, registry: Registry, layout: Layout, blobs: Blobs, max_inline: int) -> None:
        self._registry = registry
        self._layout = layout
        self._blobs = blobs
        self._max_inline = max_inline
        self._index = Database(layout.index)
        self._all_seen: Stamp = ()

    def waiting(self, db: sqlite3.Connection, name: str) -> tuple[Version, ...]:
        """Return the versions of a name that are not revisions yet, the oldest first."""
        last = queries.last_version(db, name)
        return tuple(each for each in self._registry.versions(name) if each.version > last)

    def all_waiting(self, db: sqlite3.Connection) -> tuple[Version, ...]:
        """Return the versions of all names ``owner/name`` that are not revisions yet."""
        stamp = self._index.stamp()
        if stamp and stamp == self._all_seen:
            return ()
        last = queries.last_versions(db)
        behind = {
            name
            for name, number in self._registry.last_numbers().items()
            if "/" in name and number > last.get(name, 0)
        }
        if len(behind) > _FEW:
            versions: Iterable[Version] = self._registry.list()
        else:
            versions = (each for name in sorted(behind) for each in self._registry.versions(name))
        found = tuple(
            each
            for each in versions
            if each.name in behind and each.version > last.get(each.name, 0)
        )
        if not found:
            self._all_seen = stamp
        return found

    def add_version(self, db: sqlite3.Connection, version: Version) -> None:
        """Make a version the head of main; skip one whose files are missing."""
        if version.version <= queries.last_version(db, version.name):
            return
        try:
            tree = self._tree_of(version)
        except (OSError, AdapterHubError):
            # removed and collected since, or damaged, which ``adapterhub verify`` reports
            return
        created = hub_time(version.created)
        repository = queries.repository(db, version.name)
        if repository is None:
            repository = queries.add_repository(db, version.name, private=False, created=created)
        revision = new_revision(
            queries.ref(db, repository.id, "branch", MAIN),
            tree,
            author=REGISTRY_AUTHOR,
            title=f"Version {version.version}",
            message=version.digest,
            time=created,
        )
        queries.add_revision(db, repository.id, revision, tree)
        queries.set_ref(db, repository.id, "branch", MAIN, revision.sha)
        queries.link_version(db, repository.id, version.version, version.digest, revision.sha)
        queries.describe(db, repository.id, self.card(tree), created)

    def selected(self, db: sqlite3.Connection, repository: Repository, selector: str) -> str | None:
        """Return the commit of the version that an alias or a digest of the registry names."""
        try:
            version = self._registry.resolve(parse_ref(f"{repository.name}@{selector}"))
        except (RefError, NotFoundError):
            return None
        return queries.version_commit(db, repository.id, version.version)

    def late_signatures(self, db: sqlite3.Connection, name: str) -> dict[str, TreeFile]:
        """Return the signatures that were added to the version at the head of main.

        Returns:
            Files by name; empty if the head is not a version.
        """
        head = queries.head_version(db, name)
        if head is None:
            return {}
        tree = queries.tree(db, head.repository, head.sha)
        found = self._signatures_of(head.digest)
        return {path: file for path, file in found.items() if tree.get(path) != file}

    def add_late_signatures(self, db: sqlite3.Connection, name: str) -> None:
        """Commit late signatures of the version at the head of main."""
        late, head = self.late_signatures(db, name), queries.head_version(db, name)
        if head is None or not late:
            return
        tree = {**queries.tree(db, head.repository, head.sha), **late}
        title, time_ = f"Signature of version {head.version}", now()
        revision = new_revision(head.sha, tree, author=REGISTRY_AUTHOR, title=title, time=time_)
        queries.add_revision(db, head.repository, revision, tree)
        queries.set_ref(db, head.repository, "branch", MAIN, revision.sha)
        queries.move_version(db, head, revision.sha)

    def put(self, name: str, tree: Mapping[str, TreeFile], revision: Revision) -> Version | None:
        """Store the files of a revision as a version if they are a complete artifact."""
        listed = tree.get(MANIFEST_NAME)
        if listed is None:
            return None
        manifest = self.check(tree)
        if not is_complete(tree, manifest):
            return None
        with self._layout.staged() as staging:
            for file in (MANIFEST_NAME, *manifest.files):
                (staging / file).hardlink_to(self._blobs.path(tree[file].sha256))
            info = {"hub": {"revision": revision.sha, "author": revision.author}}
            try:
                return self._registry.put(
                    staging, name, info=info, signatures=self._signatures_in(tree)
                )
            except SignatureError as error:
                raise HTTPError(400, error.problem, place=error.place) from error

    def check(self, tree: Mapping[str, TreeFile]) -> Manifest:
        """Return the manifest of a tree that has one."""
        listed = tree[MANIFEST_NAME]
        with self._blobs.path(listed.sha256).open("rb") as file:
            manifest = Manifest.from_json(file.read(MAX_MANIFEST))
        is_complete(tree, manifest)
        return manifest

    def card(self, tree: Mapping[str, TreeFile]) -> Card:
        """Return the metadata of the card of a tree; empty if it cannot be read."""
        listed = tree.get(CARD_NAME)
        if listed is None:
            return Card()
        try:
            with self._blobs.path(listed.sha256).open("rb") as file:
                return parse_card(file.read(MAX_CARD).decode("utf-8", "replace"))
        except (OSError, AdapterHubError):
            return Card()

    def _tree_of(self, version: Version) -> dict[str, TreeFile]:
        blob = version.digest.removeprefix("sha256:")
        content = self._blobs.path(blob).read_bytes()
        tree = {MANIFEST_NAME: self._tree_file(blob, len(content))}
        for name, entry in Manifest.from_json(content).files.items():
            if not self._blobs.path(entry.sha256).exists():
                raise NotFoundError(f"{name} is missing", place=str(version.ref))
            tree[name] = self._tree_file(entry.sha256, entry.size)
        return tree | self._signatures_of(version.digest)

    def _signatures_of(self, digest: str) -> dict[str, TreeFile]:
        """Return the signatures of an artifact in the registry, as files."""
        return {
            signature_name(each.key): self._tree_file(each.sha256, each.size)
            for each in self._registry.stored_signatures(digest)
        }

    def _signatures_in(self, tree: Mapping[str, TreeFile]) -> list[bytes]:
        """Return the signatures in a tree; other files may have such names too."""
        found = []
        for path, file in tree.items():
            if not is_signature_name(path) or file.size > MAX_SIGNATURE:
                continue
            content = self._blobs.path(file.sha256).read_bytes()
            try:
                parse_signature(content)
            except SignatureError:
                continue
            found.append(content)
        return found

    def _tree_file(self, sha256: str, size: int) -> TreeFile:
        return TreeFile(sha256, size, lfs=size > self._max_inline)
