"""How fast does the Hub endpoint serve one file to several clients at once?

Physics: on loopback a download is a copy, from kernel to kernel if the server uses it; an endpoint
adds the lookup of the revision and the check of the bytes. It is compared to servers of the same
file in a folder: Python's ``http.server`` and Starlette's ``StaticFiles``. Clients are processes
that discard what they read; all start at once, and the servers are measured alternately.

    python benchmarks/hub_throughput.py [--megabytes 300] [--rounds 5]

Needs the extra ``serve``. The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 4
NAME = "team/large"
FILE = "large.dat"
MEBIBYTE = 1024 * 1024
READ_AND_DISCARD = """
import socket, sys
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
lines = (f"GET {sys.argv[2]} HTTP/1.1", "Host: x", "Connection: close", "", "")
server.sendall("\\r\\n".join(lines).encode())
buffer, count = memoryview(bytearray(1 << 20)), 0
while got := server.recv_into(buffer):
    count += got
print(count)
"""
STATIC_FILES = """
import sys, uvicorn
from starlette.staticfiles import StaticFiles
uvicorn.run(StaticFiles(directory=sys.argv[2]), port=int(sys.argv[1]), log_level="error")
"""


def free_port() -> int:
    """Return a port of the loopback interface that no server uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(port: int, *command: str, **environment: str) -> Iterator[None]:
    """Run a server until the block ends."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{command} does not accept connections") from None
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def publish(home: Path, port: int, file: Path) -> None:
    """Upload the file with the client of huggingface_hub."""
    # read when huggingface_hub is imported
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    from huggingface_hub import HfApi

    token = subprocess.run(
        [sys.executable, "-m", "adapterhub", "key", "create", "bench", "--scope", "write:team"],
        env={**os.environ, "ADAPTERHUB_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    api = HfApi(endpoint=f"http://127.0.0.1:{port}", token=token)
    api.create_repo(NAME)
    api.upload_file(path_or_fileobj=file, path_in_repo=FILE, repo_id=NAME)


def megabytes_per_second(port: int, path: str, size: int) -> float:
    """Return the throughput of all clients together, until the last one has finished."""
    started = time.perf_counter()
    command = [sys.executable, "-S", "-c", READ_AND_DISCARD, str(port), path]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(CLIENTS)]
    counts = [int(client.communicate()[0]) for client in clients]
    if min(counts) < size:
        raise SystemExit(f"{path}: a client received {min(counts)} of {size} bytes")
    return sum(counts) / (time.perf_counter() - started) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, static = Path(folder) / "home", Path(folder) / "static"
        static.mkdir()
        with (static / FILE).open("wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(MEBIBYTE))
        ours, plain, starlette = free_port(), free_port(), free_port()
        hub = ("-m", "adapterhub", "hub", "serve", "--port", str(ours))
        simple = ("-m", "http.server", str(plain), "--bind", "127.0.0.1", "-d", str(static))
        mounted = ("-c", STATIC_FILES, str(starlette), str(static))
        with (
            serving(ours, *hub, ADAPTERHUB_HOME=str(home)),
            serving(plain, *simple),
            serving(starlette, *mounted),
        ):
            publish(home, ours, static / FILE)
            servers = {
                "endpoint": (ours, f"/{NAME}/resolve/main/{FILE}"),
                "http.server": (plain, f"/{FILE}"),
                "StaticFiles": (starlette, f"/{FILE}"),
            }
            results: dict[str, list[int]] = {name: [] for name in servers}
            for _ in range(options.rounds):
                for name, (port, path) in servers.items():
                    size = options.megabytes * MEBIBYTE
                    results[name].append(round(megabytes_per_second(port, path, size)))
    for name, speeds in results.items():
        print(f"{name:12} {speeds} MB/s")
    shares = [
        ours / peer for ours, peer in zip(results["endpoint"], results["http.server"], strict=True)
    ]
    print(json.dumps({**results, "share_of_http_server": round(statistics.median(shares), 2)}))


if __name__ == "__main__":
    main()
