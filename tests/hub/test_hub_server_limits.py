"""Deadlines of connections, and links that no request can redirect, over the wire."""

import json
import logging
import socket
import time
from dataclasses import replace

import pytest
from hub_server_helpers import SETTINGS, digest, running

from adapterhub.errors import SettingsError
from adapterhub.http.connections import ConnectionLimits
from adapterhub.hub.server import HubSettings

HASTY = replace(
    SETTINGS,
    max_inline=64 * 1024 * 1024,
    max_file=64 * 1024 * 1024,
    max_commit=128 * 1024 * 1024,
    body_timeout=0.4,
    connections=ConnectionLimits(header_timeout=0.4, write_timeout=0.4, keep_alive_timeout=1),
)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hasty") / "home", HASTY) as endpoint:
        endpoint.api.create_repo("team/fruit")
        yield endpoint


def connect(endpoint, small_buffer=False):
    client = socket.socket()
    client.settimeout(10)
    if small_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = endpoint.url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    return client


def seconds_until_closed(clients):
    """Wait until the endpoint has closed every connection, without reading more than it must."""
    begin = time.monotonic()
    for client in clients:
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass
        client.close()
    return time.monotonic() - begin


def head(endpoint, line, **headers):
    lines = [line, "Host: hub", f"Authorization: Bearer {endpoint.writer}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def test_unfinished_headers_are_closed_and_others_are_served_meanwhile(hasty):
    clients = [connect(hasty) for _ in range(50)]
    for client in clients:
        client.sendall(b"GET /api/models HTTP/1.1\r\nX: ")
    assert hasty.request("GET", "/api/models").status_code == 200
    assert seconds_until_closed(clients) < 5


def test_stalled_bodies_are_closed_with_408(hasty):
    client = connect(hasty)
    line = "POST /api/models/team/fruit/commit/main HTTP/1.1"
    client.sendall(head(hasty, line, Content_Length=100_000) + b'{"key": ')
    assert client.recv(65536).startswith(b"HTTP/1.1 408")
    assert seconds_until_closed([client]) < 5
    assert list(hasty.store.registry.folder.joinpath("staging").iterdir()) == []


def test_a_body_that_drips_is_closed_though_it_never_stalls(hasty):
    client = connect(hasty)
    line = "POST /api/models/team/fruit/commit/main HTTP/1.1"
    client.sendall(head(hasty, line, Content_Length=100_000))
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 5:
            client.sendall(b" ")
            time.sleep(0.05)
    except (BrokenPipeError, ConnectionResetError):
        pass
    client.close()
    assert time.monotonic() - begin < 3


def test_a_large_body_may_take_longer_than_a_small_one(hasty):
    client = connect(hasty)
    body = b'{"key": "header", "value": {"summary": "slow"}}\n'.ljust(64 * 1024)
    line = "POST /api/models/team/fruit/commit/main HTTP/1.1"
    client.sendall(head(hasty, line, Content_Length=len(body)))
    for start in range(0, len(body), 8192):
        client.sendall(body[start : start + 8192])
        time.sleep(0.1)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    client.close()


def test_downloads_that_are_not_read_are_closed(hasty):
    hasty.api.upload_file(
        path_or_fileobj=b"\0" * 24_000_000, path_in_repo="large", repo_id="team/fruit"
    )
    clients = [connect(hasty, small_buffer=True) for _ in range(10)]
    for client in clients:
        client.sendall(head(hasty, "GET /team/fruit/resolve/main/large HTTP/1.1"))
    time.sleep(1.5)
    for client in clients:
        received = 0
        try:
            while chunk := client.recv(1 << 20):
                received += len(chunk)
        except ConnectionResetError:
            pass
        client.close()
        assert received < 24_000_000


def links(endpoint, **headers):
    """Return the addresses in the responses to requests with these headers."""
    content = b"large content"
    batch = {"operation": "upload", "objects": [{"oid": digest(content), "size": len(content)}]}
    options = {"content": json.dumps(batch), "headers": headers}
    path = "/team/fruit.git/info/lfs/objects/batch"
    found = endpoint.request("POST", path, **options).json()["objects"][0]["actions"]
    page = endpoint.request("GET", "/api/models?limit=1", headers=headers).links["next"]["url"]
    return [found["upload"]["href"], found["verify"]["href"], page]


FORGED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "Forwarded": "host=evil.example;proto=https",
}


def test_links_do_not_follow_the_headers_of_a_request(hasty):
    hasty.api.create_repo("team/nuts", exist_ok=True)
    for link in links(hasty, **FORGED):
        assert link.startswith(f"{hasty.url}/")


def test_links_lead_to_the_configured_address(tmp_path):
    settings = replace(SETTINGS, public_url="https://hub.example:8443/")
    with running(tmp_path, settings) as endpoint:
        for name in ("team/fruit", "team/nuts"):
            assert endpoint.api.create_repo(name).repo_id == name
        for link in links(endpoint, **FORGED):
            assert link.startswith("https://hub.example:8443/")


@pytest.mark.parametrize(
    "url", ["hub.example", "ftp://hub", "https://", "http://h:x", "http://h?a"]
)
def test_an_address_that_is_no_url_is_refused(url):
    with pytest.raises(SettingsError, match=r"public_url.*Write a scheme"):
        HubSettings(public_url=url)


def test_the_log_does_not_show_the_ticket_of_an_upload_link(hasty, caplog):
    link = links(hasty)[0]
    logger = logging.getLogger("uvicorn.access")
    logger.addHandler(caplog.handler)
    try:
        path = link.removeprefix(hasty.url)
        assert hasty.request("PUT", path, content=b"large content").status_code == 200
    finally:
        logger.removeHandler(caplog.handler)
    assert "PUT /team/fruit.git/info/lfs/objects/" in caplog.text
    assert "ticket" not in caplog.text
