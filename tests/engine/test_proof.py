"""The contract: in any batch and whatever happens, a sequence has the logits of peft alone.

Requests are added at any step, names get other adapters while sequences run, adapters are evicted
from slots, and sequences are preempted. The logits of every token are compared with those of peft
for the same tokens, one sequence alone, on a backbone of its own.
"""

from dataclasses import dataclass, field
from functools import cache

import peft
import pytest
import torch
from engine_helpers import LINEARS, greedy_params, make_peer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import BaseTunerLayer

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.head_construction import build_head
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.sampler import Sampler
from adapterhub.kernels.lora.cpu import CpuLoraKernel
from adapterhub.kernels.lora.reference import ReferenceLoraKernel
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

#: Largest difference of logits, whose own spread is about 10. Over 60 plays of each kind 3.4e-5
#: was seen in float32, 0.63 in bfloat16 and 0.019 in int8. bfloat16 has 8 bits, so that a logit
#: of 10 is rounded by 0.04 at each of some ten places on its way. int8 rounds activations to 8
#: bits of the sequence's largest, where a difference in the last bit can move a whole step.
#: In float32 sequences stay below 2e-5, but one with 4-bit weights amplifies rounding to 1.2e-4.
BOUNDS = {"float32": 3e-4, "bfloat16": 0.8, "int8": 0.1}
#: A few sequences amplify rounding: peft's own logits in bfloat16 differ by 0.43 from its float32
#: ones, where 0.1 is usual. The bound of such a sequence is this many times that difference.
AMPLIFIED = 4.0
SIZES = EngineConfig(
    max_num_seqs=4, max_num_batched_tokens=12, kv_cache_tokens=96, block_size=4, rank_slots=26
)
SPECS = [
    LoraSpec(rank=4, alpha=8.0, target_modules=LINEARS),
    LoraSpec(rank=16, alpha=4.0, target_modules=("q_proj", "v_proj"), rslora=True),
    LoraSpec(rank=1, alpha=1.0, target_modules=("down_proj",)),
    LoraSpec(rank=5, alpha=10.0, target_modules=("k_proj", "o_proj", "gate_proj")),
    LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj", "up_proj", "o_proj"), dora=True),
    PrefixSpec(num_virtual_tokens=6),
    PrefixSpec(num_virtual_tokens=3),
]
#: Uses of every kind: none, each adapter alone, blends, with weights that are negative or zero.
USES = [
    (),
    *(((number, 1.0),) for number in range(len(SPECS))),
    ((0, 0.7), (1, -0.4)),
    ((2, 1.0), (3, 0.5), (0, 0.25)),
    ((3, -1.5),),
    ((1, 0.0), (2, 2.0)),
]


def triton_kernel():
    from adapterhub.kernels.lora.triton import TritonLoraKernel

    return TritonLoraKernel()


#: Quantization scheme, compute type, kernel of the adapters and device.
KINDS = [
    ("none", "float32", ReferenceLoraKernel, "cpu"),
    ("none", "float32", CpuLoraKernel, "cpu"),
    ("nf4", "float32", CpuLoraKernel, "cpu"),
    ("int8", "float32", CpuLoraKernel, "cpu"),
    ("none", "bfloat16", CpuLoraKernel, "cpu"),
    ("nf4", "bfloat16", CpuLoraKernel, "cpu"),
    # Triton's programs, with decoding steps replayed as CUDA graphs
    *(
        pytest.param(
            scheme,
            compute,
            triton_kernel,
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
            ],
        )
        for scheme, compute in (
            ("none", "float32"),
            ("nf4", "float32"),
            ("int8", "float32"),
            ("none", "bfloat16"),
            ("nf4", "bfloat16"),
        )
    ),
]


class RecordingSampler(Sampler):
    """Keeps the logits of every sequence."""

    def __init__(self):
        super().__init__()
        self.logits = {}

    def sample(self, logits, sequences, best=None):
        for sequence, values in zip(sequences, logits, strict=True):
            self.logits.setdefault(sequence, []).append(values.float().cpu())
        return super().sample(logits, sequences, best)


@dataclass
class Reference:
    """peft alone, on backbones of its own."""

    folder: object
    spec: QuantizationSpec
    weights: list
    device: str
    _models: dict = field(default_factory=dict)

    def logits(self, use, prompt, answer):
        """Return the logits of every token of an answer, ``[tokens, vocabulary]``."""
        if use not in self._models:
            self._models[use] = self._model(use)
        ids = torch.tensor([[*prompt, *answer[:-1]]], device=self.device)
        with torch.no_grad():
            found = self._models[use](input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return found[0, -len(answer) :].float().cpu()

    def _model(self, use):
        backbone = load_backbone(str(self.folder), self.spec, device=self.device)
        stock = build_head(backbone, "causal_lm", ()).model
        if not use:
            return stock
        model = None
        for number, _ in use:
            config, name = config_of(SPECS[number]), f"a{number}"
            if model is None:
                model = peft.get_peft_model(stock, config, adapter_name=name)
            else:
                model.add_adapter(name, config)
            tensors = dict(self.weights[number].tensors)
            peft.set_peft_model_state_dict(model, tensors, adapter_name=name)
        if len(use) > 1 or use[0][1] != 1.0:
            names = [f"a{number}" for number, _ in use]
            model.add_weighted_adapter(
                names, [weight for _, weight in use], "blend", combination_type="cat"
            )
            # peft takes over rsLoRA from the first adapter, though all scales are folded in
            for layer in model.modules():
                if isinstance(layer, BaseTunerLayer) and "blend" in layer.scaling:
                    layer.scaling["blend"] = 1.0
            model.set_adapter("blend")
        return model.eval()


def config_of(spec):
    if isinstance(spec, PrefixSpec):
        return peft.PrefixTuningConfig(
            num_virtual_tokens=spec.num_virtual_tokens, task_type="CAUSAL_LM"
        )
    return peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.target_modules),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        task_type="CAUSAL_LM",
    )


@pytest.fixture(scope="module")
def references(decoder):
    weights = [make_peer(decoder, spec, number).weights for number, spec in enumerate(SPECS)]

    @cache
    def of(scheme, compute, device):
        return Reference(decoder, QuantizationSpec(scheme, compute), weights, device)

    return of


@pytest.fixture(scope="module")
def engines(references):
    """One engine a kind, through all plays: what one leaves in it must not harm the next."""
    opened = []

    @cache
    def of(scheme, compute, kernel, device):
        reference = references(scheme, compute, device)
        backbone = load_backbone(str(reference.folder), reference.spec, device=device)
        opened.append(Engine(backbone, SIZES, kernel=kernel()))
        return opened[-1]

    yield of
    for engine in opened:
        engine.close()


PROMPTS = st.lists(st.integers(6, 60), min_size=1, max_size=30)
ARRIVAL = st.tuples(st.just("add"), PROMPTS, st.sampled_from(USES), st.integers(1, 9))
EVENTS = st.lists(
    st.one_of(
        ARRIVAL,
        ARRIVAL,
        st.tuples(st.just("steps"), st.integers(1, 6)),
        st.tuples(st.just("swap"), st.integers(0, 6), st.integers(0, 6)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
    ),
    min_size=3,
    max_size=16,
)


class Play:
    """An engine to which events happen; it knows what each sequence was requests with."""

    def __init__(self, engine, weights):
        self.engine, self.weights = engine, weights
        self.engine.core.sampler = self.recorder = RecordingSampler()
        self.meaning = list(range(len(SPECS)))
        self.sequences, self.requests = [], []
        for number, weights in enumerate(self.weights):
            self.engine.load_weights(weights, key=f"sha256:{number}", name=f"n{number}")

    def happen(self, kind, *details):
        getattr(self, kind)(*details)

    def add(self, prompt, use, count):
        # what a name means when the request is added decides
        meant = tuple((self.meaning[number], weight) for number, weight in use)
        named = [(f"n{number}", weight) for number, weight in use]
        request = self.engine.add(prompt, named, greedy_params(count))
        self.requests.append(request)
        self.sequences.append((request.sequences[0], meant, prompt))

    def steps(self, count):
        for _ in range(count):
            self.engine.step()

    def swap(self, name, number):
        if type(SPECS[name]) is type(SPECS[number]) and dora(name) == dora(number):
            weights = self.weights[number]
            self.engine.load_weights(weights, key=f"sha256:{number}", name=f"n{name}")
            self.meaning[name] = number

    def cancel(self, index):
        if index < len(self.requests):
            self.engine.cancel(self.requests[index])

    def finish(self):
        for _ in range(2000):
            if not self.engine.busy:
                break
            self.engine.step()
        assert not self.engine.busy


def dora(number):
    return getattr(SPECS[number], "dora", False)


def reference_use(use):
    """Merge an adapter that two names mean; peft refuses it twice."""
    total = {}
    for number, weight in use:
        total[number] = total.get(number, 0.0) + weight
    return tuple(total.items())


def assert_as_alone(play, reference, exact):
    """Require peft's logits; ``exact`` are the same weights computed in float32."""
    scheme, compute = reference.spec.scheme, reference.spec.compute_dtype
    for sequence, use, prompt in play.sequences:
        bound, answer = BOUNDS["int8" if scheme == "int8" else compute], sequence.output_tokens
        assert sequence.error is None
        assert sequence.finish_reason in ("length", "cancelled")
        if not answer:
            continue
        expected = reference.logits(reference_use(use), prompt, answer)
        found = torch.stack(play.recorder.logits[sequence.state])
        if compute == "bfloat16":
            own = expected - exact.logits(reference_use(use), prompt, answer)
            bound = max(bound, AMPLIFIED * own.abs().max().item())
        assert (found - expected).abs().max() <= bound, (use, prompt)
        best = expected.topk(2).values
        clear = best[:, 0] - best[:, 1] > 2 * bound
        assert torch.equal(torch.tensor(answer)[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize(("scheme", "compute", "kernel", "device"), KINDS)
@settings(
    max_examples=20,
    deadline=None,
    # the same plays each time; raise max_examples to search on
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS)
def test_every_sequence_equals_peft_alone(
    references, engines, scheme, compute, kernel, device, events
):
    reference = references(scheme, compute, device)
    play = Play(engines(scheme, compute, kernel, device), reference.weights)
    for event in events:
        play.happen(*event)
    play.finish()
    assert_as_alone(play, reference, references(scheme, "float32", device))


@pytest.mark.parametrize(("scheme", "compute", "kernel", "device"), KINDS)
def test_the_proof_sees_evictions_preemptions_and_swaps(
    references, engines, scheme, compute, kernel, device
):
    """One play in which all of them happen, so that the proof is about them."""
    reference = references(scheme, compute, device)
    play = Play(engines(scheme, compute, kernel, device), reference.weights)
    before = play.engine.stats()
    for number, use in enumerate(USES):
        play.add([7 + number] * 21, use, 9)
    play.steps(4)
    play.swap(0, 3)
    play.swap(5, 6)
    for number, use in enumerate(USES):
        play.add([40 - number, 9, 30, 12, 8], use, 9)
    play.finish()
    stats = play.engine.stats()
    assert stats.evictions > before.evictions
    assert stats.preemptions > before.preemptions
    assert_as_alone(play, reference, references(scheme, "float32", device))
