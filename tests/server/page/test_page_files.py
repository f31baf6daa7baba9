"""The files of the page: what is served, and under which policy."""

import re
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from adapterhub.server.app import page_routes

FILES = list(files("adapterhub.server").joinpath("page").iterdir())


@pytest.fixture
def client():
    return TestClient(Starlette(routes=page_routes()))


def test_the_page_and_its_files_are_served(client):
    html = client.get("/").text
    loaded = re.findall(r'(?:src|href)="(page/[^"]+)"', html)
    assert loaded
    for path in loaded:
        assert client.get(f"/{path}").status_code == 200, path
    for file in FILES:
        for other in re.findall(r'from "\./([^"]+)"', file.read_text()):
            assert client.get(f"/page/{other}").status_code == 200, f"{file.name}: {other}"


def test_media_types_do_not_depend_on_the_machine(client):
    names = [file.name for file in FILES]
    types = {name: client.get(f"/page/{name}").headers["content-type"] for name in names}
    assert types["main.js"] == "text/javascript; charset=utf-8"
    assert types["base.css"] == "text/css; charset=utf-8"
    assert types["icon.svg"] == "image/svg+xml"


def test_the_policy_forbids_other_hosts_and_inline_scripts(client):
    headers = client.get("/").headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_no_file_has_other_hosts_or_inline_handlers():
    for file in FILES:
        name, text = file.name, file.read_text()
        # the name of a namespace is no address
        addresses = re.findall(
            r"https?://[^\s\"')]+", text.replace("http://www.w3.org/2000/svg", "")
        )
        assert addresses == [], name
        assert "@import" not in text, name
        assert "innerHTML" not in text, name
        if name.endswith(".html"):
            assert not re.search(r"\s(on\w+|style)=|<style|<script(?![^>]*\ssrc=)", text), name


def test_unchanged_files_are_not_sent_again(client):
    first = client.get("/page/main.js")
    again = client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert client.get("/page/main.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/page/none.js", "/page/..%2fapp.py", "/page/"])
def test_other_files_are_not_served(client, path):
    assert client.get(path).status_code == 404


def test_a_head_request_has_the_headers_of_the_page(client):
    answer = client.head("/")
    assert answer.status_code == 200
    assert "content-security-policy" in answer.headers
