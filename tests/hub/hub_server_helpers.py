"""An endpoint on loopback, as its tests use it."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx2
import uvicorn
from huggingface_hub import HfApi

from adapterhub.access import KeyStore, open_keys, parse_scope
from adapterhub.hub.server import HubSettings, RepoStore
from adapterhub.hub.server.serving import listening
from adapterhub.registry import Registry

#: Small limits, so that they can be passed.
SETTINGS = HubSettings(
    max_inline=64 * 1024,
    max_file=4 * 1024 * 1024,
    max_commit=2 * 1024 * 1024,
    max_json=256 * 1024,
    max_files=40,
)


@dataclass
class Endpoint:
    """A running endpoint."""

    url: str
    root: Path
    store: RepoStore
    keys: KeyStore
    writer: str
    settings: HubSettings

    @property
    def api(self):
        return HfApi(endpoint=self.url, token=self.writer)

    @property
    def anonymous(self):
        return HfApi(endpoint=self.url, token=False)

    def token(self, user, *scopes):
        return self.keys.create(user, None, scopes=map(parse_scope, scopes))

    def api_for(self, user, *scopes):
        return HfApi(endpoint=self.url, token=self.token(user, *scopes))

    def registry(self):
        return Registry(self.root)

    def request(self, method, path, *, token="", headers=None, **options):
        """Send a request as it is, with the writer's token unless another or ``None`` is given."""
        token = self.writer if token == "" else token
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        with httpx2.Client(timeout=60) as client:
            return client.request(method, f"{self.url}{path}", headers=headers, **options)

    def commit_lines(self, name, *lines, revision="main", **options):
        """Send a commit of the given lines, after a header."""

        header = {"key": "header", "value": {"summary": "manual"}}
        body = b"".join(json.dumps(line).encode() + b"\n" for line in (header, *lines))
        return self.request(
            "POST", f"/api/models/{name}/commit/{revision}", content=body, **options
        )


@contextmanager
def running(root, settings=SETTINGS):
    """Run an endpoint over the registry in ``root`` in a thread."""
    store = RepoStore(root, settings)
    keys = open_keys(store.registry)
    scopes = [parse_scope("write:tester"), parse_scope("write:team")]
    writer = keys.create("tester", None, scopes=scopes)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(listening(store, keys, host="127.0.0.1", port=port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Endpoint(f"http://127.0.0.1:{port}", root, store, keys, writer, settings)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def digest(content):
    return sha256(content).hexdigest()


def write_files(folder, files):
    """Write files, given by path, below a folder."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder
