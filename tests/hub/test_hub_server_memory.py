"""The memory of the server, which does not grow with the files that pass through it."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

#: The files that are sent, and the most that the server may grow meanwhile.
MEGABYTES = int(os.environ.get("ADAPTERHUB_TEST_MEGABYTES", "192"))
GROWTH = 48
INLINE = min(MEGABYTES, 192)
PIECE = bytes(range(256)) * 4096 * 3


@pytest.fixture
def server(tmp_path):
    """Yield the client and the process of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(__file__).with_name("hub_server_process.py")
    process = subprocess.Popen(
        [sys.executable, program, tmp_path / "home", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    headers = {"Authorization": f"Bearer {process.stdout.readline().strip()}"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=300) as client:
        wait_for(client)
        yield client, process
    process.terminate()
    process.wait(30)


def wait_for(client):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client.get("/health")
        except httpx2.ConnectError:
            time.sleep(0.1)
        else:
            return


def peak(process):
    """Return the most memory that a process has had, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def chunks(megabytes):
    for _ in range(megabytes // 3):
        yield PIECE


def digest_of(megabytes):
    found, size = sha256(), 0
    for chunk in chunks(megabytes):
        found.update(chunk)
        size += len(chunk)
    return found.hexdigest(), size


def commit(client, lines):
    def body():
        yield json.dumps({"key": "header", "value": {"summary": "large"}}).encode() + b"\n"
        yield from lines

    return client.post("/api/models/tester/large/commit/main", content=body())


def inline(path, megabytes):
    yield b'{"key": "file", "value": {"content": "'
    for chunk in chunks(megabytes):
        yield base64.b64encode(chunk)
    yield f'", "path": "{path}", "encoding": "base64"}}}}\n'.encode()


def download(client, path):
    found = sha256()
    with client.stream("GET", f"/tester/large/resolve/main/{path}") as answer:
        for chunk in answer.iter_bytes(1024 * 1024):
            found.update(chunk)
    return found.hexdigest()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_flat(server, record_property):
    client, process = server
    assert client.post("/api/repos/create", json={"name": "large"}).status_code == 200
    oid, size = digest_of(MEGABYTES)
    entry = {"oid": oid, "size": size}
    batch = {"operation": "upload", "objects": [entry]}
    answer = client.post("/tester/large.git/info/lfs/objects/batch", json=batch)
    href = answer.json()["objects"][0]["actions"]["upload"]["href"]
    before = peak(process)
    assert client.put(href, content=chunks(MEGABYTES)).status_code == 200
    line = {"key": "lfsFile", "value": {"path": "large.dat", "algo": "sha256", **entry}}
    assert commit(client, [json.dumps(line).encode() + b"\n"]).status_code == 200
    assert download(client, "large.dat") == oid
    assert commit(client, inline("inline.dat", INLINE)).status_code == 200
    assert download(client, "inline.dat") == digest_of(INLINE)[0]
    record_property("peak_mb", f"{before:.0f} to {peak(process):.0f}")
    assert peak(process) - before < GROWTH
