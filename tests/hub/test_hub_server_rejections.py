"""What is refused, over the wire, by requests that no honest client makes."""

import base64
import gzip
import json

import pytest
from hub_server_helpers import SETTINGS, digest, running
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import AdapterHubError
from adapterhub.hub.server import blobstore
from adapterhub.hub.server.tree import check_path

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def hub(hub_endpoint):
    hub_endpoint.api.create_repo("team/fruit")
    return hub_endpoint


def file_line(path, content=b"content"):
    value = {"content": base64.b64encode(content).decode(), "path": path, "encoding": "base64"}
    return {"key": "file", "value": value}


def lfs_line(path, content, **changes):
    value = {"path": path, "algo": "sha256", "oid": digest(content), "size": len(content)}
    return {"key": "lfsFile", "value": {**value, **changes}}


def announce(hub, oid, size, name="team/fruit"):
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    answer = hub.request("POST", f"/{name}.git/info/lfs/objects/batch", json=body)
    return answer.json()["objects"][0]


def upload(hub, content, name="team/fruit"):
    actions = announce(hub, digest(content), len(content), name)["actions"]
    path = actions["upload"]["href"].removeprefix(hub.url)
    return hub.request("PUT", path, token=None, content=content), actions


def nothing_changed(hub):
    return hub.api.list_repo_files("team/fruit") == [] and not list(
        (hub.root / "registry" / "staging").iterdir()
    )


@pytest.mark.parametrize(
    "path",
    [
        "../escape",
        "a/../../escape",
        "/etc/passwd",
        "a//b",
        "./a",
        "",
        "a\\b",
        "C:/a",
        "a\nb",
        "a\0b",
        ".git/config",
        "a/.GIT/hooks",
        "a%2F..%2Fb",
        "x" * 300,
        "a/" * 600 + "a",
        "C:x",
        "a/b:stream",
        "%2e%2e/x",
        "a/%00",
        "con",
        "a/NUL.txt",
        "lpt1.json",
        "COM\u00b9",
        "a./b",
        "a ",
        "b/c .",
        " a",
        "a?b",
        "a*",
        'a"b',
        "a|b",
        "a<b",
    ],
)
def test_paths_that_leave_the_repository_are_refused(hub, path):
    answer = hub.commit_lines("team/fruit", file_line(path))
    assert answer.status_code == 400
    assert nothing_changed(hub)


@pytest.mark.parametrize("path", ["adapter_model.bin", "a/model.PT", "x.pkl", "c.ckpt"])
def test_pickles_are_refused(hub, path):
    for answer in (
        hub.commit_lines("team/fruit", file_line(path)),
        hub.request(
            "POST",
            "/api/models/team/fruit/preupload/main",
            json={"files": [{"path": path, "size": 3, "sample": ""}]},
        ),
    ):
        assert answer.status_code == 400
        assert "is a pickle" in answer.headers["X-Error-Message"]
    assert nothing_changed(hub)


@pytest.mark.parametrize("path", ["a.zip", "a.tar", "a.tar.gz", "a.7z", "b/a.TGZ", "a.zst"])
def test_archives_are_refused_by_name(hub, path):
    answer = hub.commit_lines("team/fruit", file_line(path))
    assert (answer.status_code, "archive" in answer.text) == (400, True)
    assert nothing_changed(hub)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04rest",
        gzip.compress(b"a", mtime=0),
        b"7z\xbc\xaf\x27\x1c",
        b"\0" * 257 + b"ustar\0",
    ],
)
def test_archives_are_refused_by_content(hub, content):
    answer = hub.commit_lines("team/fruit", file_line("weights.safetensors", content))
    assert (answer.status_code, "archive" in answer.text) == (400, True)
    answer, _ = upload(hub, content)
    assert answer.status_code == 200
    answer = hub.commit_lines("team/fruit", lfs_line("weights.safetensors", content))
    assert (answer.status_code, "archive" in answer.text) == (400, True)
    assert nothing_changed(hub)


def test_packed_bodies_are_refused(hub):
    bomb = gzip.compress(b"\0" * 10_000_000)
    answer = hub.commit_lines("team/fruit", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    answer = hub.request(
        "POST", "/api/validate-yaml", content=bomb, headers={**JSON, "Content-Encoding": "gzip"}
    )
    assert answer.status_code == 415


def test_a_card_that_unfolds_is_refused(hub):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefgh", "abcdefg", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    card = "---\n" + "\n".join(lines) + "\n---\n"
    answer = hub.request("POST", "/api/validate-yaml", json={"content": card, "repoType": "model"})
    assert answer.status_code == 400
    assert "aliases" in answer.json()["errors"][0]["message"]
    assert hub.commit_lines("team/fruit", file_line("README.md", card.encode())).status_code == 200
    assert hub.api.model_info("team/fruit").card_data is None


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(hub, announced):
    content = b"x" * (SETTINGS.max_json + 1)
    body = content if announced else iter([content])
    answer = hub.request("POST", "/api/repos/create", content=body, headers=JSON)
    assert answer.status_code == 413


def test_a_file_in_a_commit_that_is_too_large_is_refused(hub):
    content = b"x" * (SETTINGS.max_inline + 1)
    assert hub.commit_lines("team/fruit", file_line("a.txt", content)).status_code == 413
    many = [file_line(f"{n}.txt", b"x" * SETTINGS.max_inline) for n in range(30)]
    assert hub.commit_lines("team/fruit", *many).status_code == 413
    assert nothing_changed(hub)


def test_too_many_files_are_refused(hub):
    lines = [file_line(f"{number}.txt") for number in range(SETTINGS.max_files + 1)]
    assert hub.commit_lines("team/fruit", *lines).status_code == 413
    assert hub.commit_lines("team/fruit", *lines[:-1]).status_code == 200
    assert hub.commit_lines("team/fruit", lines[-1]).status_code == 400


def test_a_file_that_is_too_large_is_refused(hub):
    size = SETTINGS.max_file + 1
    assert announce(hub, digest(b""), size)["error"]["code"] == 413
    answer = hub.request(
        "POST",
        "/api/models/team/fruit/preupload/main",
        json={"files": [{"path": "a", "size": size, "sample": ""}]},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("sent", [b"other bytes!", b"short", b"much longer than it should be"])
def test_bytes_other_than_announced_are_refused(hub, sent):
    content = b"right bytes!"
    path = announce(hub, digest(content), len(content))["actions"]["upload"]["href"]
    answer = hub.request("PUT", path.removeprefix(hub.url), token=None, content=sent)
    assert answer.status_code in (400, 413)
    assert hub.commit_lines("team/fruit", lfs_line("a.txt", content)).status_code == 400
    assert nothing_changed(hub)
    assert not hub.store.blobs.path(digest(sent)).exists()


def test_an_upload_is_verified_and_committed(hub):
    content = b"right bytes!"
    answer, actions = upload(hub, content)
    assert answer.status_code == 200
    verify = actions["verify"]["href"].removeprefix(hub.url)
    right = {"oid": digest(content), "size": len(content)}
    assert hub.request("POST", verify, json=right).status_code == 200
    assert hub.request("POST", verify, json={**right, "size": 3}).status_code == 404
    assert hub.commit_lines("team/fruit", lfs_line("a.txt", content, size=3)).status_code == 400
    assert hub.commit_lines("team/fruit", lfs_line("a.txt", content)).status_code == 200
    assert "actions" not in announce(hub, digest(content), len(content))
    assert hub.request("GET", "/team/fruit/resolve/main/a.txt").content == content


def test_a_link_for_an_upload_is_for_that_upload_only(hub):
    content = b"right bytes!"
    href = announce(hub, digest(content), len(content))["actions"]["upload"]["href"]
    path = href.removeprefix(hub.url)
    hub.api.create_repo("team/other")
    for wrong in (
        path.replace("team/fruit", "team/other"),
        path.replace(f"size={len(content)}", "size=99"),
        path.replace("expires=", "expires=9"),
        path.partition("&ticket")[0],
        path.partition("?")[0],
        path.replace(digest(content), digest(b"x")),
    ):
        assert hub.request("PUT", wrong, token=None, content=content).status_code == 403


def test_the_bytes_of_another_repository_can_not_be_had_by_their_digest(hub):
    stranger = hub.token("stranger", "write:stranger")
    hub.api.create_repo("team/hidden", private=True)
    secret = b"secret weights"
    assert upload(hub, secret, "team/hidden")[0].status_code == 200
    assert hub.commit_lines("team/hidden", lfs_line("a", secret)).status_code == 200
    hub.request("POST", "/api/repos/create", token=stranger, json={"name": "mine"})
    answer = hub.commit_lines("stranger/mine", lfs_line("a", secret), token=stranger)
    assert answer.status_code == 400
    body = {"operation": "upload", "objects": [{"oid": digest(secret), "size": len(secret)}]}
    answer = hub.request(
        "POST", "/stranger/mine.git/info/lfs/objects/batch", token=stranger, json=body
    )
    assert "actions" in answer.json()["objects"][0]


@pytest.mark.parametrize(
    "line",
    [
        {"key": "lfsFile", "value": {"path": "a", "oid": "../../index.sqlite3", "size": 1}},
        {"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64, "size": "1"}},
        {"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64}},
        {"key": "file", "value": {"path": "a", "content": "%%%%"}},
        {"key": "file", "value": {"path": "a", "content": "YQ==YQ=="}},
        {"key": "file", "value": {"path": "a", "content": "YQ"}},
        {"key": "file", "value": {"path": "a", "content": "text", "encoding": "utf-8"}},
        {"key": "file", "value": {"path": "a"}},
        {"key": "file", "value": {"path": 3, "content": ""}},
        {"key": "unknown", "value": {"path": "a"}},
        {"key": "file", "value": []},
        {"key": "header", "value": {"summary": "\ud800"}},
        {"key": "deletedFile", "value": {"path": "\ud800"}},
        [],
    ],
)
def test_malformed_operations_are_refused(hub, line):
    assert hub.commit_lines("team/fruit", line).status_code == 400
    assert nothing_changed(hub)


def test_a_file_and_a_folder_of_one_name_are_refused(hub):
    answer = hub.commit_lines("team/fruit", file_line("a"), file_line("a/b"))
    assert answer.status_code == 400


def test_a_commit_needs_a_header_and_its_end(hub):
    path = "/api/models/team/fruit/commit/main"
    line = json.dumps(file_line("a.txt")).encode()
    assert hub.request("POST", path, content=line).status_code == 400
    assert hub.request("POST", path, content=line[:30]).status_code == 400
    assert nothing_changed(hub)


def test_unknown_and_missing_tokens(hub):
    create = {"json": {"name": "x", "organization": "team"}}
    answer = hub.request("POST", "/api/repos/create", token=None, **create)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    for wrong in ("hf_wrong", hub.writer[:-1], f"{hub.writer}x"):
        answer = hub.request("GET", "/api/models/team/fruit", token=wrong)
        assert answer.status_code == 401
    reader = hub.token("reader", "read:team")
    answer = hub.request("POST", "/api/repos/create", token=reader, **create)
    assert answer.status_code == 403
    other = {"name": "x", "organization": "other"}
    assert hub.request("POST", "/api/repos/create", json=other).status_code == 403


def test_anonymous_reading_can_be_switched_off(tmp_path):
    from dataclasses import replace

    with running(tmp_path / "home", replace(SETTINGS, anonymous_read=False)) as hub:
        hub.api.create_repo("team/fruit")
        hub.api.create_repo("tester/stone")
        for path in ("/api/models", "/api/models/team/fruit", "/team/fruit/resolve/main/a"):
            assert hub.request("GET", path, token=None).status_code == 401
        reader = hub.token("reader", "read:team")
        found = hub.request("GET", "/api/models", token=reader).json()
        assert [model["id"] for model in found] == ["team/fruit"]
        answer = hub.request("GET", "/api/models/tester/stone", token=reader)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RepoNotFound")
        assert hub.request("GET", "/api/models/team/fruit", token=reader).status_code == 200


def test_errors_say_what_is_missing(hub):
    assert hub.commit_lines("team/fruit", file_line("a.txt")).status_code == 200
    for path, code in (
        ("/api/models/team/missing", "RepoNotFound"),
        ("/api/datasets/team/fruit", "RepoNotFound"),
        ("/api/models/gpt2", "RepoNotFound"),
        ("/api/models/team/fruit/revision/missing", "RevisionNotFound"),
        ("/team/fruit/resolve/missing/a.txt", "RevisionNotFound"),
        ("/team/fruit/resolve/main/missing", "EntryNotFound"),
        ("/team/fruit/resolve/main/..%2F..%2Findex.sqlite3", "EntryNotFound"),
        ("/gpt2/resolve/main/config.json", "RepoNotFound"),
    ):
        answer = hub.request("GET", path)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, code), path
    assert hub.request("GET", "/nothing").status_code == 404
    assert hub.request("DELETE", "/api/models").status_code == 405


def test_head_and_ranges(hub):
    content = bytes(range(256)) * 16
    assert hub.commit_lines("team/fruit", file_line("a.dat", content)).status_code == 200
    path = "/team/fruit/resolve/main/a.dat"
    head = hub.request("HEAD", path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(content)))
    assert head.headers["X-Repo-Commit"] == hub.api.model_info("team/fruit").sha
    assert head.content == b""
    whole = hub.request("GET", path)
    assert (whole.content, whole.headers["ETag"]) == (content, head.headers["ETag"])
    for asked, start, end in (("100-", 100, None), ("5-9", 5, 10), ("-10", -10, None)):
        part = hub.request("GET", path, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, content[start:end])
        assert part.headers["Content-Range"].endswith(f"/{len(content)}")
    assert hub.request("GET", path, headers={"Range": "bytes=9999-"}).status_code == 416
    part = hub.request("GET", path, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (part.status_code, part.content) == (200, content)


@pytest.mark.parametrize("name", ["a b", "../a", "-a", "a..b", "refs/heads/a", "a~1", "a\x07", ""])
def test_names_that_no_tag_can_have_are_refused(hub, name):
    answer = hub.request("POST", "/api/models/team/fruit/tag/main", json={"tag": name})
    assert answer.status_code == 400


def test_pull_requests_are_not_offered(hub):
    path = "/api/models/team/fruit/commit/main?create_pr=1"
    assert hub.request("POST", path, content=b"").status_code == 400


def test_tokens_are_stored_hashed_and_can_be_removed(hub):
    token = hub.token("reader", "read:*")
    stored = b"".join(
        path.read_bytes() for path in hub.keys.path.parent.glob("*.sqlite3*") if path.is_file()
    )
    assert token.encode() not in stored
    assert token.partition("_")[2].encode() not in stored
    info = next(each for each in hub.keys.list() if each.name == "reader")
    hub.keys.remove(info.id)
    assert hub.request("GET", "/api/whoami-v2", token=token).status_code == 401


@given(st.text(max_size=40))
def test_any_path_is_plain_or_refused(path):
    try:
        check_path(path)
    except AdapterHubError:
        return
    parts = path.split("/")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert path.isprintable()


@pytest.mark.parametrize(
    "paths",
    [
        ("a.json", "a.json"),
        ("a.json", "A.json"),
        ("Sub/a", "sub/b"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff41", "a"),
        ("stra\u00dfe", "strasse"),
    ],
)
def test_paths_that_are_one_on_some_systems_are_refused(hub, paths):
    answer = hub.commit_lines("team/fruit", *map(file_line, paths))
    assert answer.status_code == 400
    assert nothing_changed(hub)


def test_a_path_that_collides_with_one_of_an_earlier_commit_is_refused(hub):
    assert hub.commit_lines("team/fruit", file_line("Notes.md")).status_code == 200
    assert hub.commit_lines("team/fruit", file_line("notes.md")).status_code == 400
    gone = {"key": "deletedFile", "value": {"path": "Notes.md"}}
    assert hub.commit_lines("team/fruit", gone, file_line("notes.md")).status_code == 200
    assert hub.api.list_repo_files("team/fruit") == ["notes.md"]


def test_too_many_files_are_refused_before_they_are_synced(hub, monkeypatch):
    synced = []
    monkeypatch.setattr(blobstore, "_sync", synced.append)
    lines = [file_line(f"f{number}") for number in range(2000)]
    answer = hub.commit_lines("team/fruit", *lines)
    assert answer.status_code == 413
    assert synced == []
    assert nothing_changed(hub)


def test_a_search_with_too_many_terms_is_refused(hub):
    assert hub.request("GET", "/api/models?filter=" + ",".join("a" * 50)).status_code == 200
    answer = hub.request("GET", "/api/models?filter=" + ",".join(f"t{n}" for n in range(3000)))
    assert (answer.status_code, "limit is 50" in answer.text) == (400, True)


@pytest.mark.parametrize(
    "address",
    [
        "/api/models/team/fruit%00",
        "/api/models/team/fruit/tree/main/a%00b",
        "/api/models/team/fruit/revision/%00",
        "/team/fruit/resolve/main/a%0Ab",
        "/api/models?search=%00",
        "/api/models?filter=a%1Bb",
    ],
)
def test_a_control_character_in_an_address_is_refused(hub, address):
    assert hub.request("GET", address).status_code == 400


def test_a_cursor_with_a_lone_surrogate_is_refused(hub):
    cursor = base64.urlsafe_b64encode(b'["a", "\\ud800"]').decode()
    assert hub.request("GET", f"/api/models?cursor={cursor}").status_code == 400


def test_many_paths_are_looked_up_in_one_pass(hub):
    assert hub.commit_lines("team/fruit", file_line("a/b/c.txt")).status_code == 200
    paths = ["a", "a/b", "a/b/c.txt", "a/x", "", *(f"f{number}" for number in range(30))]
    found = hub.request("POST", "/api/models/team/fruit/paths-info/main", json={"paths": paths})
    assert [(each["path"], each["type"]) for each in found.json()] == [
        ("a", "directory"),
        ("a/b", "directory"),
        ("a/b/c.txt", "file"),
    ]


def test_metadata_that_takes_seconds_to_parse_is_refused(hub):
    card = "---\na: " + "[" * 100_000 + "\n---\n"
    answer = hub.request("POST", "/api/validate-yaml", json={"content": card})
    assert (answer.status_code, "the limit is 65536" in answer.text) == (400, True)
