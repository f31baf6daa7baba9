"""A repository that plain peft published, pulled from an endpoint and asked."""

import pytest
from hub.hub_server_helpers import running
from huggingface_hub import constants
from import_helpers import WEIGHTS, change_config, import_options, saved

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import ArtifactError, BackboneError, RecipeError
from adapterhub.hub.client.address import HubAddress
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.import_peft import ImportOptions
from adapterhub.registry import Registry
from adapterhub.workflows.open_adapter import open_engine

ADDRESS = HubAddress("team/plain")


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    with running(tmp_path / "served") as found:
        yield found


@pytest.fixture
def here(tmp_path):
    return Registry(tmp_path / "here")


def publish(endpoint, folder):
    endpoint.api.create_repo(ADDRESS.repo_id)
    endpoint.api.upload_folder(repo_id=ADDRESS.repo_id, folder_path=folder)


@pytest.mark.parametrize("options", [{}, {"prefix": True}], ids=["lora", "prefix"])
def test_it_is_pulled_and_answers(endpoint, here, decoder, tmp_path, options):
    saved(decoder, tmp_path / "theirs", **options)
    publish(endpoint, tmp_path / "theirs")
    pulled = pull(here, ADDRESS, options=import_options(decoder), api=endpoint.api)
    assert pulled.new
    assert pulled.unknown == ("backbone", "data", "metrics", "quantization", "recipe", "seed")
    assert pulled.version.name == "team/plain"
    assert pulled.version.info["hub"]["revision"] == pulled.revision
    artifact = read_artifact(here.materialize(pulled.version))
    loaded = open_engine(artifact).load(artifact, name="plain")
    assert loaded.generate([[{"role": "user", "content": "the film"}]])
    again = pull(here, ADDRESS, options=import_options(decoder), api=endpoint.api)
    assert (again.new, again.version) == (False, pulled.version)


@pytest.mark.parametrize(
    ("changes", "options", "error"),
    [
        ({"base_model_name_or_path": None}, ImportOptions(), BackboneError),
        (
            {"base_model_name_or_path": "someone/else"},
            ImportOptions(backbone="minilm-l6"),
            BackboneError,
        ),
        ({"task_type": None}, ImportOptions(backbone="minilm-l6"), RecipeError),
        ({"peft_type": "POLY"}, ImportOptions(backbone="minilm-l6"), ArtifactError),
        ({"use_qalora": True}, ImportOptions(backbone="minilm-l6"), ArtifactError),
    ],
)
def test_what_the_configuration_rules_out_is_not_fetched(
    endpoint, here, decoder, tmp_path, changes, options, error
):
    saved(decoder, tmp_path / "theirs")
    change_config(tmp_path / "theirs", **changes)
    publish(endpoint, tmp_path / "theirs")
    with pytest.raises(error):
        pull(here, ADDRESS, options=options, api=endpoint.api)
    assert here.list() == ()
    fetched = {path.name for path in (tmp_path / "hf-cache").rglob("snapshots/*/*")}
    assert fetched == {"adapter_config.json"}


def test_weights_that_do_not_fit_change_nothing(endpoint, here, decoder, tmp_path, monkeypatch):
    # another Hub may not check what it takes
    monkeypatch.setattr("adapterhub.hub.server.store.check_content", lambda *_: None)
    saved(decoder, tmp_path / "theirs")
    (tmp_path / "theirs" / WEIGHTS).write_bytes(b"no safetensors")
    publish(endpoint, tmp_path / "theirs")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        pull(here, ADDRESS, options=import_options(decoder), api=endpoint.api)
    assert here.list() == ()
    assert here.verify() == ()
