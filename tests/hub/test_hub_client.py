"""Push and pull with the Hub's own client, against an endpoint on loopback."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hub_client_helpers import ADDRESS, send
from huggingface_hub import HfApi
from registry.registry_helpers import MANIFEST, WEIGHTS

from adapterhub.errors import (
    ArtifactError,
    BackboneError,
    NotFoundError,
    RefError,
    TransferError,
)
from adapterhub.hub.client.address import HubAddress, parse_address
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.client.pushing import plan_push, push


def contents(registry, version):
    return {path.name: path.read_bytes() for path in registry.materialize(version).iterdir()}


def test_what_is_pushed_comes_back_to_the_byte(hub_endpoint, here, there, put):
    version = put()
    commit = send(here, "fruit", hub_endpoint.api)
    pulled = pull(there, parse_address("hf://team/fruit@v1"), api=hub_endpoint.api)
    assert (pulled.new, pulled.revision, pulled.unknown) == (True, commit, ())
    assert pulled.version.name == "team/fruit"
    assert pulled.version.digest == version.digest
    assert contents(there, pulled.version) == contents(here, version)
    assert pulled.version.info["hub"] == {
        "repository": "team/fruit",
        "revision": commit,
        "endpoint": hub_endpoint.url,
    }
    assert there.verify() == ()
    # and the endpoint's own registry has it as a version
    assert hub_endpoint.registry().resolve("team/fruit").digest == version.digest


def test_a_push_is_one_commit_and_a_tag(hub_endpoint, here, put):
    api = hub_endpoint.api
    for weights in ("first", "second"):
        put(weights)
        send(here, "fruit", api)
    commits = api.list_repo_commits("team/fruit")
    assert [commit.title for commit in commits[:2]] == ["fruit@2", "fruit@1"]
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs("team/fruit").tags}
    assert tags == {"v1": commits[1].commit_id, "v2": commits[0].commit_id}


def test_files_of_the_version_before_go_and_others_stay(hub_endpoint, here, put):
    api = hub_endpoint.api
    put(files={"loss.svg": b"<svg/>"})
    send(here, "fruit", api)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="team/fruit")
    put("second")
    plan = plan_push(here, "fruit", ADDRESS, api=api)
    assert plan.delete == ("loss.svg",)
    assert [name for name, _ in plan.send] == [WEIGHTS, "manifest.json"]
    assert plan.keep == ("README.md", "adapter_config.json")
    push(here, plan, api=api)
    files = set(api.list_repo_files("team/fruit"))
    assert {"NOTES.md", WEIGHTS} < files
    assert "loss.svg" not in files


def test_planning_sends_nothing(hub_endpoint, here, put):
    put()
    plan = plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api, private=True)
    assert (plan.create, plan.private, plan.tag, plan.done) == (True, True, "v1", False)
    assert {name for name, _ in plan.send} == {
        "README.md",
        WEIGHTS,
        "adapter_config.json",
        "manifest.json",
    }
    assert not hub_endpoint.api.repo_exists("team/fruit")


def test_pushing_again_sends_nothing(hub_endpoint, here, put):
    put()
    commit = send(here, "fruit", hub_endpoint.api)
    plan = plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api)
    assert plan.done
    assert plan.send == ()
    assert push(here, plan, api=hub_endpoint.api) == commit
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1


def test_a_version_below_the_head_is_published_still(hub_endpoint, here, put):
    put()
    first = send(here, "fruit@1", hub_endpoint.api)
    put("second")
    second = send(here, "fruit@2", hub_endpoint.api)
    assert send(here, "fruit@1", hub_endpoint.api) == first
    assert hub_endpoint.api.model_info("team/fruit").sha == second


def test_a_tag_of_another_artifact_is_not_moved(hub_endpoint, here, put):
    put()
    send(here, "fruit", hub_endpoint.api)
    put("other", name="apple")
    with pytest.raises(TransferError, match=r"its tag 'v1' belongs to another artifact.*--tag"):
        plan_push(here, "apple", ADDRESS, api=hub_endpoint.api)
    commit = send(here, "apple", hub_endpoint.api, tag="apple-1")
    tags = {
        tag.name: tag.target_commit for tag in hub_endpoint.api.list_repo_refs("team/fruit").tags
    }
    assert tags["apple-1"] == commit
    assert tags["v1"] != commit


def test_a_private_repository_stays_private(hub_endpoint, here, there, put):
    put()
    send(here, "fruit", hub_endpoint.api, private=True)
    assert hub_endpoint.api.model_info("team/fruit").private
    with pytest.raises(TransferError, match=r"says 40[14].*hf auth login"):
        pull(there, ADDRESS, api=hub_endpoint.anonymous)
    assert there.list() == ()
    assert pull(there, ADDRESS, api=hub_endpoint.api).new


def test_private_is_refused_for_a_public_repository(hub_endpoint, here, put):
    put()
    hub_endpoint.api.create_repo("team/fruit")
    with pytest.raises(TransferError, match="the repository is public"):
        plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api, private=True)


def test_pulling_again_gives_the_same_version(hub_endpoint, here, there, put):
    put()
    send(here, "fruit", hub_endpoint.api)
    first = pull(there, ADDRESS, api=hub_endpoint.api)
    again = pull(there, ADDRESS, api=hub_endpoint.api)
    assert (first.new, again.new) == (True, False)
    assert again.version == first.version


def test_a_name_of_ones_own(hub_endpoint, here, there, put):
    put()
    send(here, "fruit", hub_endpoint.api)
    assert pull(there, ADDRESS, name="mine", api=hub_endpoint.api).version.name == "mine"
    with pytest.raises(RefError, match="--name"):
        pull(there, HubAddress("team/_fruit"), api=hub_endpoint.api)


def test_manifest_and_configuration_name_one_backbone(hub_endpoint, here, there, put):
    put(backbone=replace(MANIFEST.backbone, hub_id="someone/else"))
    send(here, "fruit", hub_endpoint.api)
    with pytest.raises(BackboneError, match=r"'someone/else'.*'someone/tiny'"):
        pull(there, ADDRESS, api=hub_endpoint.api)
    assert there.list() == ()


def test_the_card_is_read_by_the_hub(hub_endpoint, here, put):
    card = (
        "---\nlibrary_name: peft\npipeline_tag: text-classification\ntags: [lora]\n---\n# Fruit\n"
    )
    put(files={"README.md": card.encode()})
    send(here, "fruit", hub_endpoint.api)
    info = hub_endpoint.api.model_info("team/fruit")
    assert (info.library_name, info.pipeline_tag) == ("peft", "text-classification")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"x"}, "is not an adapter"),
        ({"config.json": b"{}"}, "adapterhub backbones fetch team/plain"),
        ({"adapter_config.json": b"{}"}, f"has no {WEIGHTS}"),
    ],
)
def test_what_is_no_adapter_is_refused(hub_endpoint, there, files, message):
    api = hub_endpoint.api
    api.create_repo("team/plain")
    for name, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="team/plain")
    with pytest.raises(ArtifactError, match=message):
        pull(there, HubAddress("team/plain"), api=api)
    assert there.list() == ()


def test_an_unknown_version_is_not_pushed(hub_endpoint, here):
    with pytest.raises(NotFoundError):
        plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api)


def test_a_push_names_no_revision(hub_endpoint, here, put):
    put()
    with pytest.raises(RefError, match=r"main branch.*--tag"):
        plan_push(here, "fruit", HubAddress("team/fruit", "dev"), api=hub_endpoint.api)


@pytest.mark.parametrize(
    "text",
    [
        "team/fruit",
        "hf://fruit",
        "hf://team/fruit/more",
        "hf://team/../fruit",
        "hf://../fruit",
        "hf://team/fruit@",
        "hf://team/fruit@a b",
        "hf://team/fruit@../x",
        "hf://team/fr\x00uit",
        "hf://team/fruit@\n",
        "https://huggingface.co/team/fruit",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(RefError):
        parse_address(text)


def test_addresses():
    assert parse_address("hf://Team/fruit-2.b@refs/pr/1") == HubAddress(
        "Team/fruit-2.b", "refs/pr/1"
    )
    assert str(parse_address("hf://team/fruit@v3")) == "hf://team/fruit@v3"


def test_commands(hub_endpoint, put, tmp_path):
    put()

    def run(home, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "adapterhub", *arguments],
            env={
                **os.environ,
                "HF_ENDPOINT": hub_endpoint.url,
                "HF_TOKEN": hub_endpoint.writer,
                "HF_HOME": str(tmp_path / "hf"),
                "ADAPTERHUB_HOME": str(tmp_path / home),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert hub_endpoint.writer not in done.stdout + done.stderr
        return done.stdout

    planned = json.loads(run("here", "push", "fruit", "hf://team/fruit", "--dry-run", "--json"))
    assert planned["commit"] is None
    assert "manifest.json" in planned["send"]
    assert not hub_endpoint.api.repo_exists("team/fruit")
    said = run("here", "push", "fruit", "hf://team/fruit", "--private")
    assert "new private repository hf://team/fruit" in said
    assert "adapterhub pull hf://team/fruit@v1" in said
    pulled = json.loads(run("there", "pull", "hf://team/fruit", "--name", "mine", "--json"))
    assert (pulled["ref"], pulled["new"]) == ("mine@1", True)
    files = [path for home in ("here", "there") for path in (tmp_path / home).rglob("*")]
    assert not any(
        hub_endpoint.writer.encode() in path.read_bytes() for path in files if path.is_file()
    )


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("pushing", ("torch", "transformers", "bitsandbytes")),
        ("pulling", ("transformers", "bitsandbytes")),
    ],
)
def test_no_library_for_models_is_loaded(module, unwanted):
    code = (
        f"import sys, adapterhub.hub.client.{module}\n"
        f"print([name for name in {unwanted} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_usual_token_is_used(hub_endpoint, here, put, monkeypatch):
    put()
    monkeypatch.setenv("HF_TOKEN", hub_endpoint.writer)
    send(here, "fruit", HfApi(endpoint=hub_endpoint.url), private=True)
    assert hub_endpoint.api.model_info("team/fruit").private
