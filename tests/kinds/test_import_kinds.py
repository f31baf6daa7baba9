"""Adapters of every kind of peft, imported: peft computes the same with the artifact."""

import pytest
from kind_cases import CASES, import_case, logits, peft_model, save_adapter, save_backbone, stock

from adapterhub.adapters.artifact import read_artifact
from adapterhub.errors import AdapterHubError


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    made = {}

    def find(name):
        if name not in made:
            made[name] = save_backbone(name, tmp_path_factory.mktemp(name))
        return made[name]

    return find


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_peft_computes_the_same_with_the_artifact(case, backbones, tmp_path):
    backbone = backbones(case.backbone)
    theirs = save_adapter(case, backbone, tmp_path / "theirs")
    ours = tmp_path / "ours"
    if case.outcome not in ("served", "converted"):
        with pytest.raises(AdapterHubError, match=case.outcome):
            import_case(case, backbone, theirs, ours)
        return
    expected = logits(peft_model(case, backbone, theirs))
    assert (expected - logits(stock(case, backbone))).abs().max() > 10 * case.bound
    import_case(case, backbone, theirs, ours)
    conversion = read_artifact(ours).manifest.conversion
    assert (conversion is None) == (case.outcome == "served")
    difference = (logits(peft_model(case, backbone, ours)) - expected).abs().max()
    assert difference < case.bound
