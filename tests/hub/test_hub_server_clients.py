"""The real client of the Hub against our endpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
from hub_server_helpers import SETTINGS, running, write_files
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from registry.registry_helpers import weights_file

CARD = b"""---
library_name: peft
base_model: org/base
pipeline_tag: text-classification
tags: [fruit, tiny]
license: mit
---
# Fruit
"""
FILES = {
    "README.md": CARD,
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": weights_file("tensors"),
    "extra/notes.txt": b"a note",
    "empty.txt": b"",
}


@pytest.fixture
def api(hub_endpoint):
    return hub_endpoint.api


@pytest.fixture
def fruit(api, tmp_path):
    """Return the name of a repository with some files."""
    api.create_repo("team/fruit")
    api.upload_folder(repo_id="team/fruit", folder_path=write_files(tmp_path / "up", FILES))
    return "team/fruit"


def test_the_token_tells_who_calls(api, hub_endpoint):
    assert api.whoami()["name"] == "tester"
    assert [org["name"] for org in api.whoami()["orgs"]] == ["team"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub_endpoint.api.whoami(token="hf_wrong")


def test_a_repository_is_made_once(api, hub_endpoint):
    url = api.create_repo("team/fruit")
    assert url.repo_id == "team/fruit"
    assert url == f"{hub_endpoint.url}/team/fruit"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("team/fruit")
    assert api.create_repo("team/fruit", exist_ok=True).repo_id == "team/fruit"
    assert api.create_repo("mine").repo_id == "tester/mine"
    assert api.repo_exists("team/fruit")
    assert not api.repo_exists("team/stone")


def test_a_private_repository_is_seen_by_its_owners_only(api, hub_endpoint):
    api.create_repo("team/hidden", private=True)
    assert api.model_info("team/hidden").private
    for other in (hub_endpoint.anonymous, hub_endpoint.api_for("other", "write:other")):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("team/hidden")
        assert not list(other.list_models())
    reader = hub_endpoint.api_for("reader", "read:team")
    assert reader.model_info("team/hidden").id == "team/hidden"
    assert [model.id for model in reader.list_models()] == ["team/hidden"]
    api.update_repo_settings("team/hidden", private=False)
    assert hub_endpoint.anonymous.model_info("team/hidden").private is False


def test_a_folder_is_uploaded_and_told_about(api, fruit):
    assert api.list_repo_files(fruit) == sorted(FILES)
    info = api.model_info(fruit, files_metadata=True)
    assert info.author == "team"
    assert info.library_name == "peft"
    assert info.pipeline_tag == "text-classification"
    assert info.card_data["license"] == "mit"
    assert {"fruit", "base_model:org/base", "license:mit"} <= set(info.tags)
    assert {each.rfilename: each.size for each in info.siblings} == {
        path: len(content) for path, content in FILES.items()
    }


def test_what_is_there_is_not_committed_again(api, fruit, tmp_path):
    before = api.model_info(fruit).sha
    api.upload_folder(repo_id=fruit, folder_path=tmp_path / "up")
    api.upload_file(path_or_fileobj=CARD, path_in_repo="README.md", repo_id=fruit)
    assert api.model_info(fruit).sha == before


def test_a_commit_adds_deletes_and_copies(api, fruit):
    before = api.model_info(fruit).sha
    commit = api.create_commit(
        fruit,
        [
            CommitOperationAdd("new/a.txt", b"a"),
            CommitOperationDelete("empty.txt"),
            CommitOperationDelete("extra/"),
            CommitOperationCopy("adapter_config.json", "copy.json"),
        ],
        commit_message="change",
        commit_description="for a reason",
        parent_commit=before,
    )
    files = api.list_repo_files(fruit)
    assert {"new/a.txt", "copy.json"} <= set(files)
    assert not {"empty.txt", "extra/notes.txt"} & set(files)
    history = api.list_repo_commits(fruit)
    assert [each.commit_id for each in history][:2] == [commit.oid, before]
    assert (history[0].title, history[0].message) == ("change", "for a reason")
    assert history[0].authors == ["tester"]


def test_a_commit_for_a_branch_that_moved_on_is_refused(api, fruit):
    before = api.model_info(fruit).sha
    api.upload_file(path_or_fileobj=b"1", path_in_repo="1.txt", repo_id=fruit)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(
            path_or_fileobj=b"2", path_in_repo="2.txt", repo_id=fruit, parent_commit=before
        )
    assert "2.txt" not in api.list_repo_files(fruit)


def test_deleting_what_is_not_there_is_refused(api, fruit):
    with pytest.raises(EntryNotFoundError):
        api.delete_file("nothing.txt", fruit)


def test_trees_and_paths(api, fruit):
    top = {entry.path: entry for entry in api.list_repo_tree(fruit)}
    assert "extra" in top
    assert "extra/notes.txt" not in top
    assert [e.path for e in api.list_repo_tree(fruit, "extra")] == ["extra/notes.txt"]
    everything = [e.path for e in api.list_repo_tree(fruit, recursive=True)]
    assert everything == sorted([*FILES, "extra"])
    found = api.get_paths_info(fruit, ["README.md", "extra", "missing"])
    assert [entry.path for entry in found] == ["README.md", "extra"]
    assert api.file_exists(fruit, "README.md")
    assert not api.file_exists(fruit, "missing")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(fruit, "missing"))


def test_branches_and_tags(api, fruit):
    first = api.model_info(fruit).sha
    api.create_tag(fruit, tag="v1.0", tag_message="first")
    api.create_branch(fruit, branch="try/it")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(fruit, tag="v1.0")
    api.create_tag(fruit, tag="v1.0", exist_ok=True)
    api.create_branch(fruit, branch="try/it", exist_ok=True)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="1.txt", repo_id=fruit, revision="try/it")
    assert "1.txt" in api.list_repo_files(fruit, revision="try/it")
    assert "1.txt" not in api.list_repo_files(fruit)
    refs = api.list_repo_refs(fruit)
    assert [ref.name for ref in refs.branches] == ["main", "try/it"]
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1.0", first)]
    api.delete_tag(fruit, tag="v1.0")
    api.delete_branch(fruit, branch="try/it")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(fruit, revision="v1.0")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch(fruit, branch="main")


def test_files_are_downloaded_at_a_revision(api, fruit, hub_endpoint, tmp_path):
    first = api.model_info(fruit).sha
    api.upload_file(path_or_fileobj=b"new", path_in_repo="extra/notes.txt", repo_id=fruit)
    options = {"endpoint": hub_endpoint.url, "cache_dir": tmp_path / "cache", "token": False}
    new = hf_hub_download(fruit, "extra/notes.txt", **options)
    old = hf_hub_download(fruit, "extra/notes.txt", revision=first, **options)
    assert (Path(new).read_bytes(), Path(old).read_bytes()) == (b"new", b"a note")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(fruit, "missing", **options)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(fruit, "README.md", revision="missing", **options)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("team/missing", "README.md", **options)
    local = hf_hub_download(
        fruit, "README.md", endpoint=hub_endpoint.url, token=False, local_dir=tmp_path / "local"
    )
    assert Path(local).read_bytes() == CARD


def test_a_snapshot_is_cached(api, fruit, hub_endpoint, tmp_path):
    options = {"endpoint": hub_endpoint.url, "cache_dir": tmp_path / "cache", "token": False}
    folder = snapshot_download(fruit, **options)
    assert snapshot_download(fruit, **options) == folder
    assert snapshot_download(fruit, local_files_only=True, **options) == folder
    for path, content in FILES.items():
        with open(f"{folder}/{path}", "rb") as file:
            assert file.read() == content
    api.create_tag(fruit, tag="keep")
    api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id=fruit)
    assert snapshot_download(fruit, revision="keep", **options) == folder
    assert snapshot_download(fruit, **options) != folder


def test_models_are_found(api, fruit):
    api.create_repo("team/stone")
    api.create_repo("tester/fruit-salad")

    def names(**filters):
        return sorted(model.id for model in api.list_models(**filters))

    assert names() == ["team/fruit", "team/stone", "tester/fruit-salad"]
    assert names(search="FRUIT") == ["team/fruit", "tester/fruit-salad"]
    assert names(author="team") == ["team/fruit", "team/stone"]
    assert names(filter="tiny") == ["team/fruit"]
    assert names(filter=["tiny", "peft"]) == ["team/fruit"]
    assert names(filter=["tiny", "missing"]) == []
    assert names(pipeline_tag="text-classification") == ["team/fruit"]
    assert len(names(limit=2)) == 2
    newest = [model.id for model in api.list_models(sort="created_at")]
    assert newest == ["tester/fruit-salad", "team/stone", "team/fruit"]


def test_a_list_is_paged_to_its_end(api, hub_endpoint):
    for number in range(7):
        api.create_repo(f"team/many{number}")
    seen, path = [], "/api/models?limit=3&author=team"
    while path:
        answer = hub_endpoint.request("GET", path)
        seen.append([model["id"] for model in answer.json()])
        following = answer.links.get("next", {}).get("url")
        path = following and following.removeprefix(hub_endpoint.url)
    assert [len(page) for page in seen] == [3, 3, 1]
    assert sorted(name for page in seen for name in page) == [
        f"team/many{number}" for number in range(7)
    ]


def test_a_repository_is_deleted(api, fruit):
    api.delete_repo(fruit)
    assert not api.repo_exists(fruit)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(fruit)
    api.delete_repo(fruit, missing_ok=True)


def test_a_repository_is_moved(api, fruit):
    files = api.list_repo_files(fruit)
    api.move_repo(fruit, "tester/moved")
    assert api.list_repo_files("tester/moved") == files
    assert not api.repo_exists(fruit)
    api.create_repo("team/other")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.move_repo("team/other", "tester/moved")


def test_access_is_told(api, fruit, hub_endpoint):
    api.auth_check(fruit, write=True)
    reader = hub_endpoint.api_for("reader", "read:*")
    reader.auth_check(fruit)
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.auth_check(fruit, write=True)
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.create_repo("team/new")
    with pytest.raises(HfHubHTTPError, match="a token is needed"):
        hub_endpoint.anonymous.upload_file(
            path_or_fileobj=b"1", path_in_repo="1.txt", repo_id=fruit
        )


def test_long_trees_and_histories_are_paged(tmp_path):
    with running(tmp_path / "home", replace(SETTINGS, max_page=2)) as hub:
        api = hub.api
        api.create_repo("team/long")
        paths = [f"folder/{number} ä&.txt" for number in range(5)]
        for path in paths:
            api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id="team/long")
        assert [entry.path for entry in api.list_repo_tree("team/long", "folder")] == paths
        assert len(api.list_repo_commits("team/long")) == 6
        found = hf_hub_download(
            "team/long", paths[0], endpoint=hub.url, token=False, cache_dir=tmp_path / "cache"
        )
        assert Path(found).read_bytes() == b"x"
