"""Which backbone an adapter goes on, told from its files alone."""

from dataclasses import replace

import pytest
from import_helpers import PLAIN
from registry.registry_helpers import MANIFEST

from adapterhub.adapters.manifest import BackboneRef
from adapterhub.backbones import matching
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.matching import check_manifest_backbone, match_backbone
from adapterhub.errors import BackboneError, FingerprintMismatch

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("asked", [None, "smollm2-135m-instruct", SMOLLM])
def test_a_hub_id_is_the_backbone_of_the_catalog(asked):
    match = match_backbone(SMOLLM, None, asked, place="theirs")
    assert (match.name, match.hub_id) == ("smollm2-135m-instruct", SMOLLM)
    assert match.certain


def test_what_a_user_says_of_an_adapter_that_does_not_is_not_certain():
    match = match_backbone("/home/someone/model", None, "minilm-l6", place="theirs")
    assert match.name == "minilm-l6"
    assert not match.certain


@pytest.fixture
def manifest(decoder):
    """Return the manifest of an adapter that was trained on the tiny backbone."""
    fingerprint = full_fingerprint(weights_fingerprint(decoder), PLAIN)
    backbone = BackboneRef(name="tiny", fingerprint=fingerprint, hub_id="nobody/tiny")
    return replace(MANIFEST, backbone=backbone, quantization=PLAIN)


def have(monkeypatch, folder):
    """Let a backbone of every Hub id lie in ``folder``, or none where it is ``None``."""
    monkeypatch.setattr(matching, "cached_backbone", lambda hub_id, revision: folder)


def test_the_backbone_that_is_here_must_have_the_fingerprint(manifest, decoder, monkeypatch):
    have(monkeypatch, decoder)
    check_manifest_backbone(manifest, "nobody/tiny", place="theirs")
    other = replace(manifest.backbone, fingerprint="sha256:cd")
    with pytest.raises(FingerprintMismatch) as caught:
        check_manifest_backbone(replace(manifest, backbone=other), "nobody/tiny", place="theirs")
    assert caught.value.expected == "sha256:cd"
    assert caught.value.found == manifest.backbone.fingerprint


def test_a_backbone_that_is_not_here_is_compared_when_it_is_loaded(manifest, monkeypatch):
    have(monkeypatch, None)
    other = replace(manifest.backbone, fingerprint="sha256:cd")
    check_manifest_backbone(replace(manifest, backbone=other), "Nobody/Tiny", place="theirs")
    with pytest.raises(BackboneError, match="its manifest names the backbone 'nobody/tiny'"):
        check_manifest_backbone(manifest, "someone/else", place="theirs")
