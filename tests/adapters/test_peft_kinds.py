"""Every method of the installed peft is served, converted, or refused with a way out."""

import dataclasses

import peft
import pytest

from adapterhub.adapters.peft_format import config_document, spec_of
from adapterhub.adapters.peft_kinds import PEFT_KINDS, kind_of, needs_conversion
from adapterhub.errors import ArtifactError

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}


def test_the_table_covers_the_methods_of_the_installed_peft():
    assert set(PEFT_KINDS) == {kind.value for kind in peft.PeftType}


@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_a_method_is_served_converted_or_refused_in_one_sentence(kind):
    support = PEFT_KINDS[kind]
    config = {"peft_type": kind}
    if support.treatment == "refused":
        with pytest.raises(ArtifactError) as caught:
            kind_of(config)
        assert str(caught.value).startswith(f"adapter_config.json: peft_type: {kind} ")
        assert caught.value.hint == support.way_out != ""
        return
    assert kind_of(config) == kind
    assert needs_conversion(config) == (support.treatment == "converted")
    if support.treatment == "converted":
        with pytest.raises(ArtifactError, match=r"after a conversion only.*import-peft"):
            spec_of(config)


@pytest.mark.parametrize(
    ("change", "converts"),
    [
        ({}, False),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, False),
        ({"init_lora_weights": "pissa"}, True),
        ({"init_lora_weights": "pissa_niter_4"}, True),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, True),
        ({"kasa_config": {"beta": 1e-4}}, True),
        ({"velora_config": {"num_groups": 4}}, False),
    ],
)
def test_a_variant_of_lora_is_converted_where_it_changes_the_backbone(change, converts):
    assert needs_conversion({**LORA, **change}) == converts


@pytest.mark.parametrize(
    "key", ["arrow_config", "layer_replication", "megatron_config", "use_qalora"]
)
def test_a_variant_that_cannot_be_served_is_refused_with_a_way_out(key):
    with pytest.raises(ArtifactError) as caught:
        needs_conversion({**LORA, key: {"on": 1}})
    assert caught.value.place == f"adapter_config.json: {key}"
    assert caught.value.hint


def test_every_setting_of_lora_in_the_installed_peft_is_known():
    """A new setting of peft that is on is an error; this test names it first."""
    document = config_document(peft.LoraConfig(target_modules=["q_proj"]))
    known = {
        *document,
        *(field.name for field in dataclasses.fields(peft.LoraConfig)),
    }
    unknown = []
    for key in sorted(known - {"peft_type", "target_modules", "r", "lora_alpha"}):
        try:
            spec_of({**LORA, key: {"something": "on"}})
        except ArtifactError as error:
            if str(error).startswith(f"adapter_config.json: {key}: {{'something': 'on'}} is not"):
                unknown.append(key)
    assert unknown == ["exclude_modules", "layers_pattern", "layers_to_transform"]
