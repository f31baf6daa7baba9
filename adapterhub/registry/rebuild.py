"""The index made again from the manifests of the stored artifacts and the journal.

The manifests say what the artifacts are. The journal says the rest: names, numbers, tags, aliases
with their history and rules, evaluations, signatures, trusted keys and settings.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST, FileEntry, Manifest
from adapterhub.backbones.folder import default_root
from adapterhub.errors import ArtifactError, RefError, RegistryError
from adapterhub.refs import check_name
from adapterhub.registry import index
from adapterhub.registry.blobs import Blobs
from adapterhub.registry.database import Database
from adapterhub.registry.failures import REBUILD, translate_os_errors
from adapterhub.registry.journal import Journal, Replay
from adapterhub.registry.journal_schema import JOURNALED
from adapterhub.registry.journaled_index import JournaledIndex, entries, last_seq
from adapterhub.registry.layout import Layout, sync_folder
from adapterhub.registry.schema import SCHEMA_CHANGES
from adapterhub.registry.staging import StagedArtifact

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Tag of versions that no journal names.
RECOVERED_TAG = "recovered"
_SIDES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Result of a rebuild.

    Args:
        versions: Number of versions in the new index.
        aliases: Number of aliases in the new index.
        recovered: Versions of artifacts that the journal does not name.
        missing: Versions of the journal whose artifact is gone or damaged.
        replaced: File that the former index was moved to; ``None`` if there was none.
        damaged_lines: Number of lines of the journal that could not be read.
    """

    versions: int
    aliases: int
    recovered: tuple[str, ...]
    missing: tuple[str, ...]
    replaced: Path | None
    damaged_lines: int


def rebuild(root: Path | None = None) -> Rebuilt:
    """Make the index of a registry again, and keep the former one beside it.

    No blob is changed. End other processes that use the registry first: what they write to the
    former index meanwhile is not in the new one.

    Args:
        root: Home folder; ``$ADAPTERHUB_HOME`` or the user's data folder by default.

    Raises:
        RegistryError: When the index is intact, or the registry cannot be written.
    """
    home = root if root is not None else default_root()
    layout = Layout(home.absolute() / "registry")
    layout.make()
    with translate_os_errors(layout.folder), _alone(layout.folder / "rebuild.lock"):
        _require_damage(layout)
        return _rebuild(layout)


def _rebuild(layout: Layout) -> Rebuilt:
    journal = Journal(layout.journal)
    found = journal.replay()
    replay = found or Replay({table: {} for table in JOURNALED}, frozenset(), 0, 0)
    new = layout.index.with_name(f"rebuilt.{layout.index.name}")
    _remove(new)
    database = Database(new, SCHEMA_CHANGES)
    database.prepare()
    artifacts = _artifacts(layout)
    with database.writing() as db:
        missing = _add_rows(db, replay, artifacts)
        unnamed = [each for each in artifacts.values() if not _is_named(each, replay)]
        recovered = _add_unnamed(db, unnamed, named=found is None)
        # one more, so that copies of earlier indexes are known to be older
        _set_seq(db, replay.seq + 1)
        counts = [_count(db, table) for table in ("versions", "aliases")]
    replaced = _exchange(layout.index, new)
    # read after the index is in place, so that a kill in between leaves an index that is ahead
    with Database(layout.index).reading() as db:
        journal.replace(last_seq(db), list(entries(db)))
    return Rebuilt(counts[0], counts[1], recovered, missing, replaced, replay.damaged)


def _is_named(artifact: StagedArtifact, replay: Replay) -> bool:
    """Return whether a journal names an artifact, be it one that was removed."""
    digest = artifact.digest
    return digest in replay.digests or digest.removeprefix("sha256:") in replay.digests


def _require_damage(layout: Layout) -> None:
    if not layout.index.exists():
        return
    try:
        journaled = JournaledIndex(layout)
        journaled.prepare()
        if journaled.damage():
            return
    except RegistryError as error:
        if error.hint == REBUILD:
            return
        raise
    raise RegistryError(
        "is intact and agrees with its journal", place=str(layout.index), hint="Nothing was changed"
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, so that two rebuilds do not meet."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RegistryError(
                "another process rebuilds the index", place=str(path.parent)
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _artifacts(layout: Layout) -> dict[str, StagedArtifact]:
    """Return the artifacts among the blobs whose files are all there, the oldest first."""
    blobs = Blobs(layout)
    paths = sorted(
        (blobs.path(each) for each in blobs.all()), key=lambda path: path.stat().st_mtime
    )
    found = (_artifact(path, blobs) for path in paths)
    return {each.digest: each for each in found if each is not None}


def _artifact(path: Path, blobs: Blobs) -> StagedArtifact | None:
    """Return the artifact whose manifest a blob is; ``None`` if it is none, or damaged."""
    if path.stat().st_size > MAX_MANIFEST:
        return None
    content = path.read_bytes()
    if not content.startswith(b"{") or sha256(content).hexdigest() != path.name:
        return None
    try:
        manifest = Manifest.from_json(content)
    except ArtifactError:
        return None
    for entry in manifest.files.values():
        blob = blobs.path(entry.sha256)
        if not blob.exists() or blob.stat().st_size != entry.size:
            return None
    files = {**manifest.files, MANIFEST_NAME: FileEntry(sha256=path.name, size=len(content))}
    return StagedArtifact(path.parent, manifest, f"sha256:{path.name}", files)


def _add_rows(
    db: sqlite3.Connection, replay: Replay, artifacts: Mapping[str, StagedArtifact]
) -> tuple[str, ...]:
    """Add the rows of a journal, except those of artifacts that are gone; return their versions."""
    rows = replay.rows
    versions = rows["versions"]
    kept = {key: row for key, row in versions.items() if row["digest"] in artifacts}
    digests = {row["digest"] for row in kept.values()}
    for digest in sorted(digests):
        index.add_artifact(db, artifacts[digest])
    for table, journaled in JOURNALED.items():
        columns = (*journaled.key, *journaled.columns)
        wanted = [row for row in rows[table].values() if _has_owner(table, row, kept, digests)]
        db.executemany(
            f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) "
            f"VALUES ({', '.join('?' * len(columns))})",
            [tuple(row[column] for column in columns) for row in wanted],
        )
    for (name, number), row in kept.items():
        index.index_words(db, name, number, artifacts[row["digest"]].manifest)
    return tuple(f"{name}@{number}" for name, number in versions.keys() - kept.keys())


def _has_owner(
    table: str,
    row: Mapping[str, Any],
    versions: Mapping[tuple[Any, ...], Any],
    digests: set[str],
) -> bool:
    """Return whether the version or the artifact that a row belongs to exists."""
    if table in ("versions", "tags", "aliases"):
        return (row["name"], row["version"]) in versions
    return table not in ("evaluations", "signatures") or row["digest"] in digests


def _add_unnamed(
    db: sqlite3.Connection, artifacts: Iterable[StagedArtifact], *, named: bool
) -> tuple[str, ...]:
    """Register artifacts that no journal names; without one, under the names of their recipes."""
    added = []
    for each in artifacts:
        name = _name_of(each) if named else _new_name(each)
        version = index.registered(db, name, each.digest) or index.add(db, name, each, "{}")
        index.change_tags(db, version, add=[RECOVERED_TAG], remove=())
        added.append(str(version.ref))
    return tuple(added)


def _name_of(artifact: StagedArtifact) -> str:
    name = artifact.manifest.recipe.get("name")
    try:
        check_name(str(name or ""))
    except RefError:
        return _new_name(artifact)
    return str(name)


def _new_name(artifact: StagedArtifact) -> str:
    return f"recovered-{artifact.digest.removeprefix('sha256:')[:12]}"


def _set_seq(db: sqlite3.Connection, seq: int) -> None:
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'journal'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('journal', ?)", (seq,))


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _exchange(path: Path, new: Path) -> Path | None:
    """Move a new database into place, and the former one, if there is one, aside."""
    replaced = None
    if path.exists():
        stamp = index.now().replace(":", "").replace("+0000", "Z")
        replaced = path.with_name(f"{path.name}.replaced-{stamp}")
    for side in _SIDES:
        part = path.with_name(path.name + side)
        if part.exists() and replaced is not None:
            part.rename(replaced.with_name(replaced.name + side))
        else:
            part.unlink(missing_ok=True)
    new.rename(path)
    sync_folder(path.parent)
    return replaced


def _remove(path: Path) -> None:
    for side in _SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)
