"""Everything that a network and a Hub can do wrong, with nothing changed here by it."""

import hashlib
import sqlite3
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from hub_client_helpers import ADDRESS, send
from hub_client_proxy import Fault, spoiling
from huggingface_hub import HfApi
from registry.registry_helpers import WEIGHTS, weights_file

from adapterhub.errors import ArtifactError, FingerprintMismatch, TransferError
from adapterhub.hub.client import limits, remote
from adapterhub.hub.client.address import HubAddress
from adapterhub.hub.client.failures import translate_hub_errors
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.client.pushing import plan_push, push

LARGE = "0123456789abcdef" * 40_000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Let the library try again at once where it would wait for seconds."""
    hurried = SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", hurried)


@pytest.fixture
def proxy(hub_endpoint):
    with spoiling(hub_endpoint.url) as running:
        yield running


@pytest.fixture
def api(proxy, hub_endpoint):
    return HfApi(endpoint=proxy.url, token=hub_endpoint.writer)


@pytest.fixture
def published(hub_endpoint, here, put):
    """Publish a version of several hundred KB, past the proxy."""
    version = put(LARGE)
    send(here, "fruit", hub_endpoint.api)
    return version


def snapshot(registry):
    """Return every file of a registry with its digest, but checkouts and SQLite's own.

    A database is what it holds, without the changes that wait to be written to the journal: a check
    of the files drops those that are written.
    """
    files = (path for path in registry.folder.rglob("*") if path.is_file())
    files = (path for path in files if registry.folder / "checkouts" not in path.parents)
    return {
        str(path.relative_to(registry.folder)): hashlib.sha256(content_of(path)).hexdigest()
        for path in files
        if not path.name.endswith(("-wal", "-shm"))
    }


def content_of(path):
    if path.suffix != ".sqlite3":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        lines = [line for line in db.iterdump() if not line.startswith('INSERT INTO "journal"')]
        return "\n".join(lines).encode()


REFUSALS = [
    (401, {}, r"says 401.*hf auth login"),
    (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "says 401"),
    (403, {"X-Error-Message": "no"}, r"says 403.*does not allow.*Ask its owner"),
    (403, {"X-Error-Code": "GatedRepo"}, r"says 403.*accept its terms"),
    (404, {"X-Error-Code": "RepoNotFound"}, r"says 404.*Check the address"),
    (404, {"X-Error-Code": "RevisionNotFound"}, r"says 404.*no such revision"),
    (409, {}, r"says 409.*at the same time.*run the same command again"),
    (429, {"Retry-After": "37"}, r"says 429.*too many requests.*Wait 37 seconds"),
    (429, {}, r"says 429.*Wait a minute"),
    (500, {}, r"says 500.*it failed"),
    (503, {}, r"says 503.*it failed"),
    (418, {}, r"says 418"),
]


@pytest.mark.parametrize("request_line", [("GET", "^/api/models/team/fruit$"), ("HEAD", WEIGHTS)])
def test_a_refused_pull_changes_nothing(proxy, api, published, there, request_line):
    before = snapshot(there)
    for status, headers, message in REFUSALS:
        proxy.faults[:] = [Fault(*request_line, status=status, headers=headers)]
        with pytest.raises(TransferError, match=message) as caught:
            pull(there, ADDRESS, api=api)
        assert caught.value.status == status
        assert there.list() == ()
        assert snapshot(there) == before
    proxy.faults.clear()
    assert pull(there, ADDRESS, api=api).version.digest == published.digest


@pytest.mark.parametrize("step", ["/preupload/", "/commit/", "/api/repos/create", "/tag/"])
def test_a_refused_push_can_be_taken_up(proxy, api, hub_endpoint, here, put, step):
    version = put()
    before = snapshot(here)
    for status in (401, 403, 409, 429, 500):
        if status == 409 and step in ("/api/repos/create", "/tag/"):
            # which says that it is there already and is no refusal
            continue
        address = HubAddress(f"team/fruit-{status}")
        plan = plan_push(here, "fruit", address, api=api)
        proxy.faults[:] = [Fault("POST", step, status=status)]
        with pytest.raises(TransferError, match=f"says {status}") as caught:
            push(here, plan, api=api)
        assert caught.value.hint
        assert snapshot(here) == before
        proxy.faults.clear()
        commit = send(here, "fruit", api, address)
        assert hub_endpoint.registry().resolve(address.repo_id).digest == version.digest
        assert hub_endpoint.api.model_info(address.repo_id, revision="v1").sha == commit


def test_no_network(here, there, put):
    nobody = HfApi(endpoint="http://127.0.0.1:9", token=False)
    put()
    for call in (
        lambda: pull(there, ADDRESS, api=nobody),
        lambda: plan_push(here, "fruit", ADDRESS, api=nobody),
    ):
        with pytest.raises(TransferError, match=r"cannot be reached.*Check the connection"):
            call()
    assert there.list() == ()


@pytest.mark.parametrize("path", ["/api/models/team/fruit$", "/tree/", WEIGHTS])
def test_a_silent_server_is_not_waited_for(proxy, api, published, there, monkeypatch, path):
    monkeypatch.setattr(limits, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    proxy.faults.append(Fault("GET", path, wait=1.0))
    begin = time.monotonic()
    with pytest.raises(TransferError, match=r"does not respond in time.*HF_HUB_DOWNLOAD_TIMEOUT"):
        pull(there, ADDRESS, api=api)
    assert time.monotonic() - begin < 30
    assert there.list() == ()


def test_a_connection_that_breaks_in_a_file_is_taken_up_there(
    proxy, api, published, there, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    proxy.faults.append(Fault("GET", WEIGHTS, cut=300_000, times=1))
    pulled = pull(there, ADDRESS, api=api)
    assert pulled.version.digest == published.digest
    ranges = [line[3] for line in proxy.requests("GET", WEIGHTS)]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=3")
    assert there.verify() == ()


def test_a_connection_that_always_breaks_is_given_up(proxy, api, published, there):
    before = snapshot(there)
    proxy.faults.append(Fault("GET", WEIGHTS, cut=0))
    with pytest.raises(TransferError, match=r"run the same command again"):
        pull(there, ADDRESS, api=api)
    assert snapshot(there) == before
    proxy.faults.clear()
    assert pull(there, ADDRESS, api=api).version.digest == published.digest


def flipped(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def test_wrong_bytes_once_are_fetched_again(proxy, api, published, there):
    proxy.faults.append(Fault("GET", WEIGHTS, change=flipped, times=1))
    assert pull(there, ADDRESS, api=api).version.digest == published.digest
    assert there.verify() == ()


def test_wrong_bytes_are_refused_and_not_kept(proxy, api, published, there, tmp_path):
    before = snapshot(there)
    proxy.faults.append(Fault("GET", WEIGHTS, change=flipped))
    with pytest.raises(TransferError, match=rf"{WEIGHTS}.*sha256.*its manifest says"):
        pull(there, ADDRESS, api=api)
    assert snapshot(there) == before
    wrong = hashlib.sha256(flipped(LARGE.encode())).hexdigest()
    cached = [path for path in (tmp_path / "hf-cache").rglob("*") if path.is_file()]
    assert wrong not in {hashlib.sha256(path.read_bytes()).hexdigest() for path in cached}
    proxy.faults.clear()
    assert pull(there, ADDRESS, api=api).version.digest == published.digest


def test_a_damaged_cache_is_noticed(api, published, there, tmp_path):
    pull(there, ADDRESS, api=api)
    for path in (tmp_path / "hf-cache").rglob("blobs/*"):
        if path.stat().st_size == len(LARGE):
            path.chmod(0o644)
            path.write_bytes(flipped(LARGE.encode()))
    assert pull(there, ADDRESS, name="again", api=api).version.digest == published.digest
    assert there.verify() == ()


def test_a_manifest_that_lies_is_refused(proxy, api, published, there):
    listed = hashlib.sha256(weights_file(LARGE)).hexdigest().encode()
    proxy.faults.append(
        Fault("GET", "manifest.json", change=lambda content: content.replace(listed, b"0" * 64))
    )
    with pytest.raises(TransferError, match="its manifest says 0000"):
        pull(there, ADDRESS, api=api)
    assert there.list() == ()


def test_a_size_that_lies_is_refused_before_it_is_fetched(proxy, api, published, there):
    length = len(weights_file(LARGE))
    size = str(length).encode()
    proxy.faults.append(
        Fault("GET", "manifest.json", change=lambda content: content.replace(size, b"999999"))
    )
    with pytest.raises(ArtifactError, match=rf"has {length} bytes, manifest\.json says 999999"):
        pull(there, ADDRESS, api=api)
    assert proxy.requests("GET", WEIGHTS) == []


def test_another_backbone_is_refused_before_the_weights_come(
    proxy, api, published, there, monkeypatch
):
    def refuse(*_args, **_options):
        raise FingerprintMismatch("fruit", "sha256:ab", "sha256:cd")

    monkeypatch.setattr("adapterhub.hub.client.pulling.check_manifest_backbone", refuse)
    with pytest.raises(FingerprintMismatch):
        pull(there, ADDRESS, api=api)
    fetched = {line[1].rsplit("/")[-1] for line in proxy.requests("GET", "/resolve/")}
    assert fetched == {"manifest.json", "adapter_config.json"}
    assert pull(there, ADDRESS, api=api, force=True).new


def test_what_is_there_is_not_sent_again(proxy, api, here, put):
    put(LARGE)
    send(here, "fruit", api)
    before = proxy.sent_bytes()
    put(LARGE, files={"README.md": b"# Another card\n"})
    send(here, "fruit", api)
    assert proxy.sent_bytes() - before < len(LARGE) / 10


def test_a_push_that_broke_off_does_not_send_large_files_again(proxy, api, here, put):
    put(LARGE)
    proxy.faults.append(Fault("POST", "/commit/", status=500))
    with pytest.raises(TransferError):
        send(here, "fruit", api)
    assert proxy.sent_bytes() > len(LARGE)
    proxy.faults.clear()
    before = proxy.sent_bytes()
    send(here, "fruit", api)
    assert proxy.sent_bytes() - before < len(LARGE) / 10


def test_a_push_that_someone_came_before_is_refused(hub_endpoint, here, put):
    put()
    send(here, "fruit", hub_endpoint.api)
    put("second")
    plan = plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api)
    hub_endpoint.api.upload_file(
        path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=ADDRESS.repo_id
    )
    with pytest.raises(TransferError, match=r"412.*at the same time"):
        push(here, plan, api=hub_endpoint.api)
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1
    assert send(here, "fruit", hub_endpoint.api)


def test_a_token_that_a_server_sends_back_is_not_shown(proxy, api, hub_endpoint, there, published):
    body = f'{{"error": "bad token {hub_endpoint.writer}"}}'.encode()
    proxy.faults.append(
        Fault("GET", "^/api/", status=403, body=body, headers={"Content-Type": "application/json"})
    )
    with pytest.raises(TransferError, match="bad token …") as caught:
        pull(there, ADDRESS, api=api)
    assert hub_endpoint.writer not in str(caught.value)


def test_offline_mode_is_respected(api, published, there, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TransferError, match="HF_HUB_OFFLINE"):
        pull(there, ADDRESS, api=api)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no route to https://ann:secret@hub/x", "no route to https://…@hub/x"),
        ("for url 'https://s3/x?X-Sig=abc&n=1'", "for url 'https://s3/x?…'"),
        ("Bearer abcdefgh and hf_abcdefghijkl and ahk_abcdefghijkl", "… and … and …"),
    ],
)
def test_secrets_are_left_out_of_errors(text, shown):
    with pytest.raises(TransferError) as caught, translate_hub_errors("team/fruit"):
        raise OSError(text)
    assert caught.value.problem == shown


def test_a_password_in_the_address_of_a_hub_is_not_stored():
    assert remote.without_password("https://ann:secret@hub:8600/x") == "https://hub:8600/x"
