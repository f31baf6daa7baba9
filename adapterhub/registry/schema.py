"""The schema of the index, as the list of its changes."""

from __future__ import annotations

from adapterhub.registry.database import SchemaChange
from adapterhub.registry.journal_schema import CREATE_JOURNAL

#: Append-only: a released change is never edited, since indexes made with it exist.
SCHEMA_CHANGES: tuple[SchemaChange, ...] = (
    SchemaChange(
        "artifacts, their files, names and versions",
        (
            # one entry per artifact, whatever the number of its names
            """CREATE TABLE artifacts (
                digest TEXT PRIMARY KEY,
                task TEXT NOT NULL,
                backbone TEXT NOT NULL,
                fingerprint TEXT NOT NULL,
                method TEXT NOT NULL,
                metrics TEXT NOT NULL,
                size INTEGER NOT NULL,
                parent TEXT
            ) WITHOUT ROWID""",
            "CREATE INDEX artifacts_by_task ON artifacts (task)",
            "CREATE INDEX artifacts_by_backbone ON artifacts (backbone)",
            # the blobs in use
            """CREATE TABLE artifact_files (
                digest TEXT NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
                file TEXT NOT NULL,
                sha256 TEXT NOT NULL,
                size INTEGER NOT NULL,
                PRIMARY KEY (digest, file)
            ) WITHOUT ROWID""",
            "CREATE INDEX artifact_files_by_blob ON artifact_files (sha256)",
            # kept when versions are removed, so that no number is reused
            """CREATE TABLE names (
                name TEXT PRIMARY KEY,
                last_version INTEGER NOT NULL
            ) WITHOUT ROWID""",
            """CREATE TABLE versions (
                name TEXT NOT NULL REFERENCES names (name),
                version INTEGER NOT NULL,
                digest TEXT NOT NULL REFERENCES artifacts (digest),
                created TEXT NOT NULL,
                info TEXT NOT NULL,
                PRIMARY KEY (name, version),
                UNIQUE (name, digest)
            ) WITHOUT ROWID""",
            "CREATE INDEX versions_by_digest ON versions (digest)",
        ),
    ),
    SchemaChange(
        "filters, aliases and their history, tags, evaluations, removals",
        (
            "ALTER TABLE artifacts ADD COLUMN rank INTEGER",
            "ALTER TABLE artifacts ADD COLUMN labels TEXT NOT NULL DEFAULT '[]'",
            # sha256 of the recipe's canonical JSON, and split name to fingerprint of its examples
            "ALTER TABLE artifacts ADD COLUMN recipe TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE artifacts ADD COLUMN data TEXT NOT NULL DEFAULT '{}'",
            # metrics after training again, for filters
            """CREATE TABLE artifact_metrics (
                digest TEXT NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
                metric TEXT NOT NULL,
                value REAL NOT NULL,
                PRIMARY KEY (digest, metric)
            ) WITHOUT ROWID""",
            "CREATE INDEX artifact_metrics_by_value ON artifact_metrics (metric, value)",
            """CREATE TABLE aliases (
                name TEXT NOT NULL,
                alias TEXT NOT NULL,
                version INTEGER NOT NULL,
                PRIMARY KEY (name, alias),
                FOREIGN KEY (name, version) REFERENCES versions (name, version)
            ) WITHOUT ROWID""",
            "CREATE INDEX aliases_by_version ON aliases (name, version)",
            # kept when aliases and versions are removed
            """CREATE TABLE alias_log (
                id INTEGER PRIMARY KEY,
                name TEXT NOT NULL,
                alias TEXT NOT NULL,
                time TEXT NOT NULL,
                who TEXT NOT NULL,
                from_version INTEGER,
                to_version INTEGER,
                why TEXT NOT NULL
            )""",
            "CREATE INDEX alias_log_by_alias ON alias_log (name, alias)",
            # conditions for moving an alias to a version
            """CREATE TABLE alias_rules (
                name TEXT NOT NULL,
                alias TEXT NOT NULL,
                rule TEXT NOT NULL,
                PRIMARY KEY (name, alias)
            ) WITHOUT ROWID""",
            """CREATE TABLE tags (
                name TEXT NOT NULL,
                version INTEGER NOT NULL,
                tag TEXT NOT NULL,
                PRIMARY KEY (name, version, tag),
                FOREIGN KEY (name, version) REFERENCES versions (name, version) ON DELETE CASCADE
            ) WITHOUT ROWID""",
            "CREATE INDEX tags_by_tag ON tags (tag)",
            """CREATE TABLE evaluations (
                id INTEGER PRIMARY KEY,
                digest TEXT NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
                time TEXT NOT NULL,
                who TEXT NOT NULL,
                data TEXT NOT NULL,
                data_fingerprint TEXT NOT NULL,
                result TEXT NOT NULL
            )""",
            "CREATE INDEX evaluations_by_digest ON evaluations (digest)",
            # blobs of removed artifacts, until the grace period is over
            """CREATE TABLE removed_blobs (
                sha256 TEXT PRIMARY KEY,
                time REAL NOT NULL
            ) WITHOUT ROWID""",
            # words to search, one entry per version: a blank, then words separated by blanks
            """CREATE TABLE texts (
                id INTEGER PRIMARY KEY,
                name TEXT NOT NULL,
                version INTEGER NOT NULL,
                content TEXT NOT NULL,
                UNIQUE (name, version),
                FOREIGN KEY (name, version) REFERENCES versions (name, version) ON DELETE CASCADE
            )""",
            """CREATE VIRTUAL TABLE words
                USING fts5 (content, content = 'texts', content_rowid = 'id')""",
        ),
    ),
    SchemaChange(
        "signatures, trusted keys and settings",
        (
            # a signature is a blob; its key is the sha256 of the public key
            """CREATE TABLE signatures (
                digest TEXT NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
                key TEXT NOT NULL,
                sha256 TEXT NOT NULL,
                size INTEGER NOT NULL,
                time TEXT NOT NULL,
                PRIMARY KEY (digest, key)
            ) WITHOUT ROWID""",
            "CREATE INDEX signatures_by_blob ON signatures (sha256)",
            """CREATE TABLE trusted_keys (
                key TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                pem TEXT NOT NULL,
                added TEXT NOT NULL
            ) WITHOUT ROWID""",
            """CREATE TABLE settings (
                name TEXT PRIMARY KEY,
                value TEXT NOT NULL
            ) WITHOUT ROWID""",
        ),
    ),
    SchemaChange("journal of changes", (CREATE_JOURNAL,)),
)
