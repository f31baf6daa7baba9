"""Publishing an adapter of a local folder: nothing of this machine goes out, and it is usable."""

import json
import shutil
import tarfile
from dataclasses import replace

import pytest
from hub.hub_server_helpers import running
from toy_fixtures import copy_home, train_once, write_moods, write_recipe

from adapterhub.adapters.artifact import read_artifact, write_artifact
from adapterhub.registry import Registry

TEXT = "the song was great"


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, encoder):
    place = tmp_path_factory.mktemp("secretive")
    moods = write_moods(place / "moods.jsonl")
    train_once(place, [str(write_recipe(place, "mood", encoder, "text-classification", moods))])
    return place


@pytest.fixture
def trained(trained_once, command, own_home):
    copy_home(trained_once, own_home)
    return command


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running(tmp_path / "hub") as endpoint:
        monkeypatch.setenv("HF_TOKEN", endpoint.writer)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint.url)
        template = f"{endpoint.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        yield endpoint


@pytest.fixture
def elsewhere(tmp_path, encoder, monkeypatch):
    """Go to another machine, where the same backbone is in another folder."""

    def go():
        folder = tmp_path / "machine" / "models" / "encoder"
        shutil.copytree(encoder, folder)
        monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "machine" / "home"))
        monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "machine" / "cache"))
        return folder

    return go


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_nothing_local(files, *secrets):
    for name, content in files.items():
        for secret in secrets:
            assert str(secret).encode() not in content, name


def test_an_artifact_names_its_backbone_by_fingerprint(trained, trained_once, encoder):
    version = Registry().resolve("mood")
    files = contents(Registry().materialize(version))
    assert_nothing_local(files, encoder, encoder.parent, trained_once)
    config = json.loads(files["adapter_config.json"])
    manifest = json.loads(files["manifest.json"])
    fingerprint = manifest["backbone"]["fingerprint"]
    assert fingerprint == config["base_model_name_or_path"] == manifest["backbone"]["name"]
    assert manifest["recipe"]["backbone"]["name"] == fingerprint
    assert manifest["recipe"]["data"]["train"] == "moods.jsonl"


def test_an_adapter_of_a_folder_is_used_here_and_refreshed_from_any_folder(trained, moods):
    assert "glad" in trained("predict", "mood", TEXT).stdout
    done = trained("refresh", "mood", "--new-data", str(moods), "--force", "--dry-run")
    assert done.exit_code == 0, done.stderr


def test_a_push_sends_nothing_local_and_a_pull_keeps_the_backbone(
    trained, trained_once, hub, elsewhere, encoder
):
    assert trained("push", "mood", "team/mood").exit_code == 0
    sent = contents(hub.registry().materialize(hub.registry().resolve("team/mood")))
    assert_nothing_local(sent, encoder, trained_once)

    folder = elsewhere()
    refused = trained("predict", "team/mood", TEXT)
    assert refused.exit_code != 0
    pulled = trained("pull", "team/mood", "--name", "mood", "--backbone", str(folder))
    assert pulled.exit_code == 0, pulled.stderr
    assert "glad" in trained("predict", "mood", TEXT).stdout


def test_a_pull_without_the_folder_says_how_to_name_it(trained, hub, elsewhere):
    assert trained("push", "mood", "team/mood").exit_code == 0
    folder = elsewhere()
    assert trained("pull", "team/mood", "--name", "mood").exit_code == 0
    refused = trained("predict", "mood", TEXT)
    assert refused.exit_code == 7
    assert b"adapterhub backbones show FOLDER" in refused.stderr_bytes
    assert trained("backbones", "show", str(folder)).exit_code == 0
    assert "glad" in trained("predict", "mood", TEXT).stdout


def test_a_pull_checks_the_folder_that_is_named(trained, hub, elsewhere, decoder):
    assert trained("push", "mood", "team/mood").exit_code == 0
    elsewhere()
    refused = trained("pull", "team/mood", "--name", "mood", "--backbone", str(decoder))
    assert refused.exit_code != 0
    assert b"fingerprint" in refused.stderr_bytes


@pytest.fixture
def old_artifact(trained, tmp_path, monkeypatch, encoder):
    """Store an artifact with the paths that earlier versions wrote."""
    secret = "/home/ann/private"
    source = read_artifact(Registry().materialize(Registry().resolve("mood")))
    manifest = source.manifest
    recipe = {**manifest.recipe, "backbone": {**manifest.recipe["backbone"], "name": str(encoder)}}
    recipe["data"] = {**recipe["data"], "train": f"{secret}/moods.jsonl"}
    write_artifact(
        tmp_path / "old",
        tensors=source.weights.tensors,
        adapter_config={**source.adapter_config, "base_model_name_or_path": str(encoder)},
        manifest=replace(
            manifest,
            files={},
            recipe=recipe,
            backbone=replace(manifest.backbone, name=str(encoder)),
        ),
        card=f"# mood\n\nTrained on {encoder} and {secret}/moods.jsonl.\n",
        extra_files={"UPSTREAM.md": f"base_model: {secret}/models/encoder\n".encode()},
    )
    return Registry().put(tmp_path / "old", "old")


def test_an_older_artifact_with_paths_is_refused_and_cleaned(
    old_artifact, trained, encoder, tmp_path, hub
):
    file = tmp_path / "old.tar"
    for words in (("export", "old", str(file)), ("push", "old", "team/old")):
        refused = trained(*words)
        assert refused.exit_code != 0
        line = refused.stderr_bytes.decode()
        assert "holds the local path" in line
        assert "adapterhub clean old@1" in line
        assert line.count("\n") <= 1
    assert not file.exists()
    assert "without local paths as old@2" in trained("clean", "old@1").stdout
    assert trained("export", "old@2", str(file)).exit_code == 0
    assert_nothing_local({"tar": file.read_bytes()}, encoder, "/home/ann")
    assert trained("push", "old@2", "team/old").exit_code == 0
    assert "old@2 has no local paths" in trained("clean", "old@2").stdout
    assert "glad" in trained("predict", "old@2", TEXT).stdout


def test_an_export_holds_nothing_local(trained, trained_once, encoder, tmp_path, elsewhere):
    file = tmp_path / "mood.tar"
    assert trained("export", "mood", str(file)).exit_code == 0
    with tarfile.open(file) as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}
    assert_nothing_local(files, encoder, trained_once)

    folder = elsewhere()
    assert trained("import", str(file), "--backbone", str(folder)).exit_code == 0
    assert "glad" in trained("predict", "mood", TEXT).stdout
