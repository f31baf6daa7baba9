"""For the tests of signing and of archives: keys, signatures, and all that a registry holds."""

import base64
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adapterhub.registry.sigstore import make_key_pair, read_public_key


@dataclass(frozen=True)
class KeyPair:
    private: Path
    public: Path

    @property
    def pem(self):
        return self.public.read_bytes()

    @property
    def key(self):
        return read_public_key(self.pem)[0]


def key_pair(folder, name, password=None):
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    make_key_pair(pair.private, pair.public, password)
    return pair


def changed(signature, **changes):
    """Return a bundle with another hint, payload or signature (bytes)."""
    bundle = json.loads(signature)
    envelope = bundle["dsseEnvelope"]
    if "hint" in changes:
        bundle["verificationMaterial"]["publicKey"]["hint"] = changes["hint"]
    if "payload" in changes:
        envelope["payload"] = base64.b64encode(changes["payload"]).decode()
    if "sig" in changes:
        envelope["signatures"][0]["sig"] = base64.b64encode(changes["sig"]).decode()
    return json.dumps(bundle).encode()


def payload(signature):
    return base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"])


def snapshot(registry):
    """Return every row of the index, every blob with its bytes, and what lies in staging."""
    with closing(sqlite3.connect(registry.folder / "index.sqlite3")) as db:
        tables = [
            row[0]
            for row in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words%' "
                # a change that is made again is journaled again
                "AND name NOT IN ('journal', 'sqlite_sequence')"
            )
        ]
        rows = {table: sorted(map(repr, db.execute(f"SELECT * FROM {table}"))) for table in tables}
    files = {
        str(path.relative_to(registry.folder)): path.read_bytes()
        for folder in ("blobs", "staging")
        for path in (registry.folder / folder).rglob("*")
        if path.is_file()
    }
    return rows, files
