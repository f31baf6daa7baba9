"""A server between a client and an endpoint that can spoil chosen answers."""

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

_OWN_HEADERS = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Fault:
    """What is done to requests that fit.

    Args:
        method: of the request.
        path: a pattern for its path.
        status: answer with this one.
        headers: sent with the status.
        body: sent with the status.
        cut: send so many bytes of the right answer, then break the connection.
        wait: seconds before anything is sent.
        change: maps the bytes of the right answer to those that are sent.
        times: so often; then requests pass.
    """

    method: str
    path: str
    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    wait: float = 0.0
    change: object = None
    times: int = 1_000


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    faults: list
    seen: list

    def requests(self, method, pattern=""):
        return [line for line in self.seen if line[0] == method and re.search(pattern, line[1])]

    def sent_bytes(self):
        """Return how many bytes clients sent in bodies."""
        return sum(size for _, _, size, _ in self.seen)


@contextmanager
def spoiling(upstream):
    """Run a proxy before the endpoint at ``upstream``."""
    faults, seen = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def handle_any(self):
            body = self._body()
            seen.append((self.command, self.path, len(body), self.headers.get("Range")))
            fault = self._fault()
            if fault:
                time.sleep(fault.wait)
                if fault.status:
                    self._answer(fault.status, fault.headers, fault.body)
                    return
            with httpx2.Client(timeout=60) as client:
                found = client.request(
                    self.command,
                    f"{upstream}{self.path}",
                    headers={
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() not in {"connection", "transfer-encoding"}
                    },
                    content=body,
                )
            # the endpoint's links lead to itself, whatever address a client uses
            content = found.content.replace(upstream.encode(), url.encode())
            if fault and fault.change:
                content = fault.change(content)
            self._answer(
                found.status_code, dict(found.headers), content, fault.cut if fault else -1
            )

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def _body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _fault(self):
            for fault in faults:
                fits = fault.method == self.command and re.search(fault.path, self.path)
                if fits and fault.times > 0:
                    fault.times -= 1
                    return fault
            return None

        def _answer(self, status, headers, content, cut=-1):
            self.send_response(status)
            length = str(len(content))
            for name, value in headers.items():
                if self.command == "HEAD" and name.lower() == "content-length":
                    length = value
                if name.lower() not in _OWN_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(content if cut < 0 else content[:cut])
            if cut >= 0:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Proxy(url, faults, seen)
    finally:
        server.shutdown()
        server.server_close()
