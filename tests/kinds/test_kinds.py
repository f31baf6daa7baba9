"""Adapters of every kind of peft: imported and served, alone and mixed, equal to peft."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from kind_cases import (
    BACKBONES,
    CASES,
    IDS,
    import_case,
    logits,
    peft_model,
    save_adapter,
    save_backbone,
    stock,
)

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.packing import EncodedExample
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import AdapterHubError
from adapterhub.specs import QuantizationSpec

SIZES = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=64, kv_cache_tokens=2048, block_size=4, rank_slots=512
)
PROMPTS = [IDS[0].tolist(), [9, 11, 8, 30, 12], [6 + (j * j) % 50 for j in range(19)]]
COUNT = 5
#: Kinds that the engine does not serve yet; this set only shrinks.
NOT_SERVED_YET = frozenset({"lora, trainable_token_indices of both"})
#: Difference of logits in float32 within which an order is no promise.
TIE = 1e-3


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
    cases = [
        case
        for case in CASES.values()
        if case.backbone == backbone and not case.refused and case.name not in NOT_SERVED_YET
    ]
    folder = made(cases[0]).backbone if cases else pytest.skip("none of its adapters is served")
    engine = Engine(load_backbone(str(folder), QuantizationSpec("none", "float32")), SIZES)
    served, faults = {}, []
    for case in cases:
        try:
            engine.load(read_artifact(made(case).ours), name=case.name)
            served[case.name] = (case, made(case).model(case))
        except (AdapterHubError, RuntimeError) as error:
            faults.append((case.name, f"{type(error).__name__}: {error}"))
    check = _generated if backbone != "bert" else _labelled
    for group in [*([name] for name in served), list(served)]:
        faults += check(engine, served, group)
    engine.close()
    assert not faults, "\n".join(map(str, faults))


def _generated(engine, served, names):
    requests = [(prompt, name) for name in names for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
    try:
        found = engine.generate(
            [prompt for prompt, _ in requests],
            [name for _, name in requests],
            [params] * len(requests),
        )
    except (AdapterHubError, RuntimeError) as error:
        return [(len(names), served[names[0]][0].name, f"{type(error).__name__}: {error}")]
    faults = []
    for (prompt, name), completion in zip(requests, found, strict=True):
        case, model = served[name]
        answer = list(completion.outputs[0].tokens)
        if completion.error:
            faults.append((len(names), case.name, str(completion.error)))
            continue
        worst = _regret(model, prompt, answer)
        if worst > max(TIE, case.bound):
            faults.append((len(names), case.name, prompt, answer, worst))
    return faults


def _regret(model, prompt, answer):
    """Return by how much a greedy answer's tokens fall short of the best ones at most."""
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    with torch.no_grad():
        scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    scores = scores[0, -len(answer) :]
    taken = scores.gather(-1, torch.tensor(answer).unsqueeze(-1))[:, 0]
    return float((scores.amax(-1) - taken).max())


_HEADS = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "QUESTION_ANS": "span"}


def _labelled(engine, served, names):
    requests = []
    for name in names:
        case, _ = served[name]
        kind = _HEADS[case.task_type]
        for prompt in PROMPTS:
            select = (0,) if kind == "sequence" else tuple(range(len(prompt)))
            example = EncodedExample(1, prompt, select)
            requests.append((name, prompt, engine.add_labeling(example, name, kind=kind)))
    while not all(request.finished for *_, request in requests):
        engine.step()
    faults = []
    for name, prompt, request in requests:
        case, model = served[name]
        try:
            (found,) = request.results()
        except (AdapterHubError, RuntimeError) as error:
            faults.append((len(names), case.name, f"{type(error).__name__}: {error}"))
            continue
        expected = logits(model, torch.tensor([prompt]))
        worst = float((found - expected.reshape(found.shape)).abs().max())
        if worst > case.bound:
            faults.append((len(names), case.name, prompt, worst))
    return faults
