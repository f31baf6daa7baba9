"""Database schema of the endpoint, as the list of its changes."""

from __future__ import annotations

from adapterhub.registry.database import SchemaChange

#: Append-only: a released change is never edited.
HUB_SCHEMA: tuple[SchemaChange, ...] = (
    SchemaChange(
        "repositories, revisions, branches, tags, uploads and tokens",
        (
            """CREATE TABLE repositories (
                id INTEGER PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                private INTEGER NOT NULL,
                created TEXT NOT NULL,
                modified TEXT NOT NULL,
                pipeline_tag TEXT,
                library TEXT,
                card TEXT NOT NULL DEFAULT '{}'
            )""",
            "CREATE INDEX repositories_by_modified ON repositories (modified, name)",
            "CREATE INDEX repositories_by_created ON repositories (created, name)",
            # tags of the card on main, for filters
            """CREATE TABLE repository_tags (
                repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
                tag TEXT NOT NULL,
                PRIMARY KEY (repository, tag)
            ) WITHOUT ROWID""",
            "CREATE INDEX repository_tags_by_tag ON repository_tags (tag)",
            """CREATE TABLE revisions (
                id INTEGER PRIMARY KEY,
                repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
                sha TEXT NOT NULL,
                parent TEXT,
                author TEXT NOT NULL,
                time TEXT NOT NULL,
                title TEXT NOT NULL,
                message TEXT NOT NULL,
                UNIQUE (repository, sha)
            )""",
            """CREATE TABLE files (
                revision INTEGER NOT NULL REFERENCES revisions (id) ON DELETE CASCADE,
                path TEXT NOT NULL,
                sha256 TEXT NOT NULL,
                size INTEGER NOT NULL,
                lfs INTEGER NOT NULL,
                PRIMARY KEY (revision, path)
            ) WITHOUT ROWID""",
            "CREATE INDEX files_by_blob ON files (sha256)",
            """CREATE TABLE refs (
                repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
                kind TEXT NOT NULL CHECK (kind IN ('branch', 'tag')),
                name TEXT NOT NULL,
                sha TEXT NOT NULL,
                PRIMARY KEY (repository, kind, name)
            ) WITHOUT ROWID""",
            # versions of the registry in a repository
            """CREATE TABLE versions (
                repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
                version INTEGER NOT NULL,
                digest TEXT NOT NULL,
                sha TEXT NOT NULL,
                PRIMARY KEY (repository, version)
            ) WITHOUT ROWID""",
            # versions up to this number belong to a repository that was deleted or moved
            """CREATE TABLE withdrawn (
                name TEXT PRIMARY KEY,
                version INTEGER NOT NULL
            ) WITHOUT ROWID""",
            # uploaded files without a commit
            """CREATE TABLE uploads (
                repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
                sha256 TEXT NOT NULL,
                size INTEGER NOT NULL,
                time REAL NOT NULL,
                PRIMARY KEY (repository, sha256)
            ) WITHOUT ROWID""",
            "CREATE INDEX uploads_by_blob ON uploads (sha256)",
            # git's name of the same content
            """CREATE TABLE git_names (
                sha256 TEXT PRIMARY KEY,
                oid TEXT NOT NULL
            ) WITHOUT ROWID""",
            # tokens and scopes are unused: open_keys moves their entries to keys.sqlite3
            """CREATE TABLE tokens (
                hash TEXT PRIMARY KEY,
                user TEXT NOT NULL,
                created TEXT NOT NULL
            ) WITHOUT ROWID""",
            # an owner, or '*' for all
            """CREATE TABLE scopes (
                hash TEXT NOT NULL REFERENCES tokens (hash) ON DELETE CASCADE,
                "right" TEXT NOT NULL CHECK ("right" IN ('read', 'write')),
                owner TEXT NOT NULL,
                PRIMARY KEY (hash, "right", owner)
            ) WITHOUT ROWID""",
            """CREATE TABLE secrets (
                name TEXT PRIMARY KEY,
                value BLOB NOT NULL
            ) WITHOUT ROWID""",
        ),
    ),
)
