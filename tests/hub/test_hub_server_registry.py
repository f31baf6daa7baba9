"""Commits become versions of the registry, and versions become commits."""

import base64
import errno
import os
import shutil
import subprocess
import sys

import pytest
from hub_server_helpers import write_files
from huggingface_hub import CommitOperationAdd, snapshot_download
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError
from registry.registry_helpers import WEIGHTS, make_artifact, weights_file

from adapterhub.hub.server import queries


@pytest.fixture
def artifact(tmp_path):
    count = 0

    def make(weights="first", **changes):
        nonlocal count
        count += 1
        return make_artifact(tmp_path / "artifacts" / str(count), weights, **changes)

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def file_line(path, content):
    value = {"content": base64.b64encode(content).decode(), "path": path, "encoding": "base64"}
    return {"key": "file", "value": value}


def push(api, name, folder):
    api.create_repo(name, exist_ok=True)
    return api.upload_folder(repo_id=name, folder_path=folder)


def test_a_pushed_artifact_is_a_version(hub_endpoint, artifact):
    api, folder = hub_endpoint.api, artifact()
    commit = push(api, "team/fruit", folder)
    registry = hub_endpoint.registry()
    version = registry.resolve("team/fruit")
    assert version.version == 1
    assert version.info["hub"] == {"revision": commit.oid, "author": "tester"}
    assert contents(registry.materialize(version)) == contents(folder)
    tags = api.list_repo_refs("team/fruit").tags
    assert [(tag.name, tag.target_commit) for tag in tags] == [("v1", commit.oid)]
    push(api, "team/fruit", artifact("second"))
    assert [each.version for each in registry.versions("team/fruit")] == [1, 2]
    assert [tag.name for tag in api.list_repo_refs("team/fruit").tags] == ["v1", "v2"]
    assert registry.verify() == ()


def test_aliases_and_digests_of_the_registry_name_revisions(hub_endpoint, artifact):
    api, registry = hub_endpoint.api, hub_endpoint.registry()
    first = push(api, "team/fruit", artifact()).oid
    second = push(api, "team/fruit", artifact("second")).oid

    def commit(selector):
        return api.model_info("team/fruit", revision=selector).sha

    registry.set_alias("team/fruit@1", "prod")
    assert (commit("prod"), commit("latest")) == (first, second)
    assert commit(registry.resolve("team/fruit@1").digest) == first
    registry.set_alias("team/fruit@2", "prod")
    assert commit("prod") == second
    for missing in ("canary", "sha256:" + "0" * 64, "no alias"):
        with pytest.raises(RevisionNotFoundError):
            commit(missing)
    # a branch of the repository is what its owner pushed
    api.create_branch("team/fruit", branch="prod", revision=first)
    assert commit("prod") == first


def test_other_files_beside_an_artifact_make_no_version(hub_endpoint, artifact):
    api = hub_endpoint.api
    push(api, "team/fruit", artifact())
    api.upload_file(path_or_fileobj=b"x", path_in_repo="notes/x.txt", repo_id="team/fruit")
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1
    assert len(api.list_repo_refs("team/fruit").tags) == 1


def test_an_artifact_in_parts_is_a_version_when_it_is_whole(hub_endpoint, artifact):
    api, folder = hub_endpoint.api, artifact()
    api.create_repo("team/fruit")
    first, *rest = sorted(contents(folder).items(), reverse=True)
    for path, content in (first, *rest):
        assert hub_endpoint.registry().versions("team/fruit") == ()
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="team/fruit")
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1


def test_a_plain_peft_repository_is_no_version(hub_endpoint, tmp_path):
    files = {WEIGHTS: weights_file("x"), "adapter_config.json": b"{}"}
    push(hub_endpoint.api, "team/plain", write_files(tmp_path / "plain", files))
    assert hub_endpoint.api.list_repo_files("team/plain") == sorted(files)
    assert hub_endpoint.registry().list() == ()


@pytest.mark.parametrize("file", [WEIGHTS, "manifest.json"])
def test_a_manifest_that_lies_is_refused(hub_endpoint, artifact, file):
    api, folder = hub_endpoint.api, artifact()
    api.create_repo("team/fruit")
    before = api.model_info("team/fruit").sha
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-2] + b"x\n")
    with pytest.raises(BadRequestError, match="manifest"):
        push(api, "team/fruit", folder)
    assert api.model_info("team/fruit").sha == before
    assert api.list_repo_files("team/fruit") == []
    assert hub_endpoint.registry().list() == ()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (WEIGHTS, b"\x80\x04\x95pickle", "pickle"),
        (WEIGHTS, weights_file("x", rank=3), "rank 2"),
        ("adapter_config.json", b"no JSON", "not valid JSON"),
        ("adapter_config.json", b"{}", "adapter_config.json"),
        ("notes.txt", b"PK\x03\x04", "archive"),
    ],
)
def test_an_artifact_that_cannot_be_loaded_is_refused(hub_endpoint, tmp_path, file, content, said):
    folder = make_artifact(tmp_path / "made", "first", files={file: content})
    with pytest.raises(BadRequestError, match=said):
        push(hub_endpoint.api, "team/fruit", folder)
    assert hub_endpoint.api.list_repo_files("team/fruit") == []
    assert hub_endpoint.registry().list() == ()


def test_a_label_of_half_a_character_is_refused(hub_endpoint, artifact):
    folder = artifact()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fruit"', r'"\ud800"'))
    with pytest.raises(BadRequestError, match=r"labels\[0\]: has a lone surrogate"):
        push(hub_endpoint.api, "team/fruit", folder)
    assert hub_endpoint.registry().list() == ()


def test_changing_a_listed_file_alone_is_refused(hub_endpoint, artifact):
    api, folder = hub_endpoint.api, artifact()
    head = push(api, "team/fruit", folder).oid
    with pytest.raises(BadRequestError, match=r"manifest\.json says"):
        api.upload_file(
            path_or_fileobj=weights_file("x"), path_in_repo=WEIGHTS, repo_id="team/fruit"
        )
    assert api.model_info("team/fruit").sha == head
    api.create_branch("team/fruit", branch="other")
    with pytest.raises(BadRequestError, match=r"manifest\.json says"):
        api.upload_file(
            path_or_fileobj=weights_file("x"),
            path_in_repo=WEIGHTS,
            repo_id="team/fruit",
            revision="other",
        )


def test_a_local_version_is_a_repository(hub_endpoint, artifact, tmp_path):
    registry = hub_endpoint.registry()
    folders = [artifact("first"), artifact("second")]
    for folder in folders:
        registry.put(folder, "team/local")
    registry.put(folders[0], "nameless")
    api = hub_endpoint.anonymous
    assert [model.id for model in api.list_models()] == ["team/local"]
    refs = api.list_repo_refs("team/local")
    assert [tag.name for tag in refs.tags] == ["v1", "v2"]
    assert api.model_info("team/local").sha == refs.tags[1].target_commit
    for revision, folder in (("v1", folders[0]), ("main", folders[1])):
        found = snapshot_download(
            "team/local",
            revision=revision,
            endpoint=hub_endpoint.url,
            token=False,
            local_dir=tmp_path / revision,
        )
        shutil.rmtree(f"{found}/.cache")
        assert contents(tmp_path / revision) == contents(folder)
    registry.put(artifact("third"), "team/local")
    assert [tag.name for tag in api.list_repo_refs("team/local").tags] == ["v1", "v2", "v3"]


def test_a_version_is_pushed_on_top_of_a_local_one(hub_endpoint, artifact):
    registry = hub_endpoint.registry()
    registry.put(artifact("first"), "team/fruit")
    push(hub_endpoint.api, "team/fruit", artifact("second"))
    registry.put(artifact("third"), "team/fruit")
    tags = hub_endpoint.api.list_repo_refs("team/fruit").tags
    assert [tag.name for tag in tags] == ["v1", "v2", "v3"]
    history = hub_endpoint.api.list_repo_commits("team/fruit")
    assert [each.commit_id for each in history] == [tag.target_commit for tag in reversed(tags)]


def test_a_deleted_repository_does_not_come_back(hub_endpoint, artifact):
    registry, api = hub_endpoint.registry(), hub_endpoint.api
    registry.put(artifact(), "team/local")
    api.delete_repo("team/local")
    assert not api.repo_exists("team/local")
    assert list(api.list_models()) == []
    assert registry.resolve("team/local").version == 1
    registry.put(artifact("second"), "team/local")
    assert [tag.name for tag in api.list_repo_refs("team/local").tags] == ["v2"]


def test_a_moved_repository_is_a_version_of_its_new_name(hub_endpoint, artifact):
    registry, api = hub_endpoint.registry(), hub_endpoint.api
    registry.put(artifact(), "team/local")
    api.move_repo("team/local", "tester/moved")
    assert registry.resolve("tester/moved").version == 1
    assert [model.id for model in api.list_models()] == ["tester/moved"]


def test_collecting_spares_what_repositories_hold(hub_endpoint, tmp_path):
    files = {WEIGHTS: weights_file("x"), "adapter_config.json": b"{}"}
    push(hub_endpoint.api, "team/plain", write_files(tmp_path / "plain", files))
    registry, store = hub_endpoint.registry(), hub_endpoint.store
    assert registry.collect(grace=0, in_use=store.uses_blob) == 0
    found = hub_endpoint.request("GET", f"/team/plain/resolve/main/{WEIGHTS}")
    assert found.content == weights_file("x")
    hub_endpoint.api.delete_repo("team/plain")
    assert registry.collect(grace=0, in_use=store.uses_blob) == len(weights_file("x")) + len(b"{}")


def test_damaged_bytes_are_not_served(hub_endpoint, artifact):
    registry = hub_endpoint.registry()
    version = registry.put(artifact(), "team/local")
    blob = next(
        path
        for path in (registry.folder / "blobs").rglob("*")
        if path.is_file() and path.read_bytes() == weights_file("first")
    )
    os.chmod(blob, 0o644)
    blob.write_bytes(weights_file("fjrst"))
    answer = hub_endpoint.request("GET", f"/team/local/resolve/v1/{WEIGHTS}")
    assert answer.status_code == 500
    assert "is damaged" in answer.json()["error"]
    assert version.digest
    registry.put(artifact("first"), "team/local")
    assert hub_endpoint.request("GET", f"/team/local/resolve/v1/{WEIGHTS}").content == weights_file(
        "first"
    )


def test_names_the_registry_does_not_take_are_refused(hub_endpoint):
    with pytest.raises(HfHubHTTPError, match="is not an adapter name"):
        hub_endpoint.api.create_repo("team/Fruit")


def test_a_commit_that_fails_after_its_version_heals(hub_endpoint, artifact, monkeypatch):
    api, folder = hub_endpoint.api, artifact()
    api.create_repo("team/fruit")
    head = api.model_info("team/fruit").sha

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/a/path/of/the/server")

    with monkeypatch.context() as patch:
        patch.setattr(queries, "describe", fail)
        answer = hub_endpoint.commit_lines(
            "team/fruit", *(file_line(path, content) for path, content in contents(folder).items())
        )
    assert (answer.status_code, "disk" in answer.text) == (507, True)
    assert "/a/path" not in answer.text
    assert hub_endpoint.registry().resolve("team/fruit").version == 1
    # the version is in the registry, so it is a revision too
    tags = api.list_repo_refs("team/fruit").tags
    assert [tag.name for tag in tags] == ["v1"]
    assert [each.commit_id for each in api.list_repo_commits("team/fruit")] == [
        tags[0].target_commit,
        head,
    ]
    push(api, "team/fruit", folder)
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1


def test_names_that_can_not_be_are_not_found(hub_endpoint):
    for name in ("Org/Model", "team/a..b"):
        answer = hub_endpoint.request("GET", f"/api/models/{name}")
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RepoNotFound")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("adapterhub.hub.server.app", "torch"), ("adapterhub.hub.server", "starlette")],
)
def test_what_is_not_needed_is_not_loaded(module, unwanted):
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_commits_at_once_lose_nothing(hub_endpoint):
    from concurrent.futures import ThreadPoolExecutor

    api = hub_endpoint.api
    api.create_repo("team/busy")

    def commit(number):
        add = CommitOperationAdd(f"{number}.txt", b"%d" % number)
        api.create_commit("team/busy", [add], commit_message=f"commit {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(16)))
    assert len(api.list_repo_files("team/busy")) == 16
    assert len(api.list_repo_commits("team/busy")) == 17
