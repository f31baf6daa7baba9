"""Resolution of the backbone of an adapter from its files alone."""

from dataclasses import replace

import pytest
from import_helpers import PLAIN
from registry.registry_helpers import MANIFEST

from adapterhub.adapters.manifest import BackboneRef
from adapterhub.backbones import resolve
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.resolve import check_manifest_backbone, resolve_base_model
from adapterhub.errors import BackboneError, FingerprintMismatch

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("requested", [None, "smollm2-135m-instruct", SMOLLM])
def test_a_hub_id_is_the_catalog_backbone(requested):
    resolved = resolve_base_model(SMOLLM, None, requested, place="theirs")
    assert (resolved.name, resolved.hub_id) == ("smollm2-135m-instruct", SMOLLM)
    assert resolved.certain


def test_a_backbone_named_by_the_user_alone_is_not_certain():
    resolved = resolve_base_model("/home/someone/model", None, "minilm-l6", place="theirs")
    assert resolved.name == "minilm-l6"
    assert not resolved.certain


def test_a_hub_id_without_owner_is_one_where_nothing_else_is_named():
    resolved = resolve_base_model("gpt2", None, None, place="theirs")
    assert (resolved.hub_id, resolved.certain) == ("gpt2", True)
    resolved = resolve_base_model("gpt2", None, "minilm-l6", place="theirs")
    assert (resolved.name, resolved.certain) == ("minilm-l6", False)


@pytest.fixture
def manifest(decoder):
    """Return the manifest of an adapter that was trained on the tiny backbone."""
    fingerprint = full_fingerprint(weights_fingerprint(decoder), PLAIN)
    backbone = BackboneRef(name="tiny", fingerprint=fingerprint, hub_id="nobody/tiny")
    return replace(MANIFEST, backbone=backbone, quantization=PLAIN)


def cache_backbone(monkeypatch, folder):
    """Make ``folder`` the cached backbone of every Hub id; ``None`` for no cached backbone."""
    monkeypatch.setattr(resolve, "cached_backbone", lambda hub_id, revision: folder)


def test_the_backbone_that_is_here_must_have_the_fingerprint(manifest, decoder, monkeypatch):
    cache_backbone(monkeypatch, decoder)
    check_manifest_backbone(manifest, "nobody/tiny", place="theirs")
    other = replace(manifest.backbone, fingerprint="sha256:cd")
    with pytest.raises(FingerprintMismatch) as caught:
        check_manifest_backbone(replace(manifest, backbone=other), "nobody/tiny", place="theirs")
    assert caught.value.expected == "sha256:cd"
    assert caught.value.found == manifest.backbone.fingerprint


def test_a_backbone_that_is_not_here_is_compared_when_it_is_loaded(manifest, monkeypatch):
    cache_backbone(monkeypatch, None)
    other = replace(manifest.backbone, fingerprint="sha256:cd")
    check_manifest_backbone(replace(manifest, backbone=other), "Nobody/Tiny", place="theirs")
    with pytest.raises(BackboneError, match="its manifest names the backbone 'nobody/tiny'"):
        check_manifest_backbone(manifest, "someone/else", place="theirs")
