"""Adapters of every kind of peft: imported and served, alone and mixed, equal to peft."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from kind_cases import (
    BACKBONES,
    CASES,
    import_case,
    logits,
    peft_model,
    save_adapter,
    save_backbone,
    stock,
)
from kind_serving import SIZES, served_differences

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.errors import AdapterHubError
from adapterhub.specs import QuantizationSpec


@dataclass
class Made:
    """An adapter as peft saved it, and the artifact of its import or why there is none."""

    backbone: Path
    theirs: Path
    ours: Path
    error: AdapterHubError | None

    def model(self, case):
        return peft_model(case, self.backbone, self.theirs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    backbones, adapters = {}, {}

    def find(case):
        if case.backbone not in backbones:
            folder = tmp_path_factory.mktemp(case.backbone)
            backbones[case.backbone] = save_backbone(case.backbone, folder)
        if case.name not in adapters:
            adapters[case.name] = _make(case, backbones[case.backbone], tmp_path_factory)
        return adapters[case.name]

    return find


def _make(case, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    theirs = save_adapter(case, backbone, folder / "theirs")
    error = None
    try:
        import_case(case, backbone, theirs, folder / "ours")
    except AdapterHubError as found:
        error = found
    return Made(backbone, theirs, folder / "ours", error)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_peft_computes_the_same_with_the_artifact(case, made):
    found = made(case)
    if case.refused:
        assert found.error is not None
        assert case.outcome in str(found.error)
        assert found.error.hint
        return
    assert found.error is None
    expected = logits(found.model(case))
    assert (expected - logits(stock(case, found.backbone))).abs().max() > 10 * case.bound
    conversion = read_artifact(found.ours).manifest.conversion
    assert (conversion is None) == (case.outcome == "served")
    difference = (logits(peft_model(case, found.backbone, found.ours)) - expected).abs().max()
    assert difference < case.bound


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_engine_computes_what_peft_does(backbone, made):
    cases = [case for case in CASES.values() if case.backbone == backbone and not case.refused]
    folder = str(made(cases[0]).backbone)
    engine = Engine(load_backbone(folder, QuantizationSpec("none", "float32")), SIZES)
    served, faults = {}, []
    for case in cases:
        try:
            engine.load(read_artifact(made(case).ours), name=case.name)
            served[case.name] = (case, made(case).model(case))
        except (AdapterHubError, RuntimeError) as error:
            faults.append((case.name, f"{type(error).__name__}: {error}"))
    # converted adapters are LoRA like any other
    alone = [[name] for name, (case, _) in served.items() if case.outcome == "served"]
    for group in [*alone, list(served)]:
        found = served_differences(engine, served, group)
        faults += [
            (len(group), name, worst)
            for name, worst in found.items()
            if isinstance(worst, str) or worst > served[name][0].bound
        ]
    engine.close()
    assert not faults, "\n".join(map(str, faults))
