"""Settings of the Ray application and the manifest for KubeRay, without a cluster."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray", reason="Ray is not installed")

from ray.serve.schema import ServeDeploySchema

from adapterhub.errors import SettingsError
from adapterhub.integrations.ray import RaySettings, build_app

MANIFEST = Path(__file__).parents[2] / "deploy" / "rayservice.yaml"


def test_settings_of_the_server_are_checked_before_anything_starts():
    settings = RaySettings.model_validate({"backbone": "a,b", "replicas": "4", "max_num_seqs": 8})
    assert settings.server.backbone == ("a", "b")
    assert (settings.replicas, settings.server.max_num_seqs) == (4, 8)
    with pytest.raises(SettingsError, match="is an unknown setting"):
        build_app({"backbone": "a", "replics": 4})
    with pytest.raises(SettingsError, match="is missing"):
        build_app({"replicas": 4})


def test_nothing_is_allowed_without_a_key_by_default():
    assert RaySettings.model_validate({"backbone": "a"}).server.host == "0.0.0.0"


def test_the_manifest_deploys_an_application_of_rays_schema():
    service = yaml.safe_load(MANIFEST.read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "adapterhub.integrations.ray:build_app"
    settings = RaySettings.model_validate(application.args)
    assert settings.server.backbone == ("smollm2-135m-instruct",)
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert float(container["resources"]["requests"]["cpu"]) >= settings.cpus
    assert workers["maxReplicas"] == settings.max_replicas
