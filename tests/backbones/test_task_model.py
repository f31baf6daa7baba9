"""Task models equal peft and transformers on each sequence and restore the backbone."""

import copy

import pytest
import torch
from torch.nn import functional as F

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.task_model import build_task_model, restore_task_model
from adapterhub.data.packing import EncodedExample, pack
from adapterhub.errors import StrictLoadError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

SEQUENCES = ([1, 5, 9, 3, 2], [4, 2], [7, 8, 9, 3, 1, 6, 2, 2, 5], [3, 2])
EXACT = QuantizationSpec("none", "float32")
TASK_TYPES = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "causal_lm": "CAUSAL_LM"}
ADAPTERS = {
    "lora": LoraSpec(rank=4, alpha=8),
    "rslora": LoraSpec(rank=4, alpha=8, rslora=True),
    "dora": LoraSpec(rank=4, alpha=8, dora=True),
    "one target": LoraSpec(rank=2, alpha=2, target_modules=("v_proj",)),
    "prefix": PrefixSpec(3),
}


def built(backbone, head, adapter, name="default"):
    """Return a model whose adapter is not zero."""
    labels = [] if head == "causal_lm" else ["a", "b", "c"]
    model = build_task_model(
        backbone,
        head=head,
        task_type=TASK_TYPES[head],
        labels=labels,
        adapter=adapter,
        adapter_name=name,
    )
    draw = torch.Generator().manual_seed(len(head))
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model.eval()


def packed(kind, head, sequences=SEQUENCES):
    def select(ids):
        if head != "sequence":
            return tuple(range(len(ids)))
        return (0,) if kind == "encoder" else (len(ids) - 1,)

    return pack([EncodedExample(n, ids, select(ids)) for n, ids in enumerate(sequences, start=1)])


def alone(model, head, sequences=SEQUENCES):
    """Return the logits of peft's own model for each sequence alone, concatenated."""
    outputs = []
    for ids in sequences:
        logits = model.peft_model(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)
        ).logits
        outputs.append(logits if head == "sequence" else logits[0])
    return torch.cat(outputs)


CASES = [
    ("encoder", head, adapter) for head in ("sequence", "token") for adapter in ("lora", "dora")
] + [("decoder", head, adapter) for head in TASK_TYPES for adapter in ADAPTERS if head != "token"]


@pytest.mark.parametrize(("kind", "head", "adapter"), CASES)
def test_packed_sequences_equal_peft_on_each_alone(request, kind, head, adapter):
    backbone = load_backbone(str(request.getfixturevalue(kind)), EXACT)
    model = built(backbone, head, ADAPTERS[adapter])
    with torch.no_grad():
        ours = model.head(model.hidden(packed(kind, head)))
        torch.testing.assert_close(ours, alone(model, head), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_quantized_sequences_do_not_depend_on_their_batch(decoder, scheme):
    backbone = load_backbone(str(decoder), QuantizationSpec(scheme, "float32"))
    model = built(backbone, "sequence", ADAPTERS["lora"])
    with torch.no_grad():
        together = model.head(model.hidden(packed("decoder", "sequence")))
        for index, ids in enumerate(SEQUENCES):
            by_itself = model.head(model.hidden(packed("decoder", "sequence", [ids])))
            torch.testing.assert_close(together[index], by_itself[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [("encoder", "lora"), ("decoder", "lora"), ("decoder", "dora"), ("decoder", "prefix")],
)
def test_gradients_are_those_of_peft(request, kind, adapter):
    backbone = load_backbone(str(request.getfixturevalue(kind)), EXACT)
    model = built(backbone, "sequence", ADAPTERS[adapter])
    targets = torch.tensor([0, 2, 1, 1])
    parameters = [parameter for _, parameter in model.trainable()]

    def gradients(logits):
        loss = F.cross_entropy(logits, targets, reduction="sum")
        return torch.autograd.grad(loss, parameters)

    ours = gradients(model.head(model.hidden(packed(kind, "sequence"))))
    theirs = gradients(alone(model, "sequence"))
    for one, other in zip(ours, theirs, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scheme", ["nf4", "int8", "none"])
def test_several_adapters_share_a_base_model(decoder, scheme):
    backbone = load_backbone(str(decoder), QuantizationSpec(scheme, "float32"))
    untouched = state_digest(backbone.base_model)
    expected = {}
    for name, adapter in ADAPTERS.items():
        head = "causal_lm" if name in ("prefix", "rslora") else "token"
        model = built(backbone, head, adapter)
        with torch.no_grad():
            hidden = model.hidden(packed("decoder", head))
            with model.disable_adapter():
                plain = model.hidden(packed("decoder", head))
        config = copy.deepcopy(model.peft_model.peft_config["default"])
        expected[name] = (head, config, model.tensors(), hidden, plain)
        model.close()
        assert state_digest(backbone.base_model) == untouched
        assert not torch.equal(hidden, plain)

    models = {
        name: restore_task_model(
            backbone,
            head=head,
            labels=[] if head == "causal_lm" else ["a", "b", "c"],
            config=config,
            tensors=tensors,
            adapter_name=f"adapter{number}",
        )
        for number, (name, (head, config, tensors, _, _)) in enumerate(expected.items())
    }

    def check(names):
        for name in names:
            head, _, tensors, hidden, plain = expected[name]
            models[name].activate()
            with torch.no_grad():
                assert torch.equal(models[name].hidden(packed("decoder", head)), hidden)
                with models[name].disable_adapter():
                    assert torch.equal(models[name].hidden(packed("decoder", head)), plain)
            stored = models[name].tensors()
            assert stored.keys() == tensors.keys()
            assert all(torch.equal(stored[key], tensors[key]) for key in tensors)

    order = list(models)
    check(order)
    check(reversed(order))
    models.pop("dora").remove()
    check([name for name in order if name != "dora"])
    next(iter(models.values())).close()
    assert state_digest(backbone.base_model) == untouched


def test_missing_or_unexpected_tensors_change_nothing(decoder):
    backbone = load_backbone(str(decoder), EXACT)
    model = built(backbone, "sequence", ADAPTERS["lora"])
    before = model.tensors()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    first = next(iter(zeros))
    fewer = {name: tensor for name, tensor in zeros.items() if name != first}
    for broken in (fewer, {**zeros, "base_model.model.other.weight": torch.zeros(1)}):
        with pytest.raises(StrictLoadError):
            model.load_tensors(broken, "mine")
    with pytest.raises(StrictLoadError):
        model.load_tensors({**zeros, first: zeros[first].T.contiguous()}, "mine")
    after = model.tensors()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_base_model_stays_in_evaluation_mode_during_training(encoder):
    backbone = load_backbone(str(encoder), EXACT)
    built(backbone, "sequence", LoraSpec(rank=4, alpha=8, dropout=0.5)).train()
    modes = {name: module.training for name, module in backbone.base_model.named_modules()}
    dropouts = [name for name in modes if "lora_dropout" in name]
    assert dropouts
    assert all(modes[name] for name in dropouts)
    frozen = [name for name in modes if name.endswith("dropout") and "lora" not in name]
    assert frozen
    assert not any(modes[name] for name in frozen)
