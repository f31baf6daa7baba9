"""Generation by encoder-decoders: mixed adapters, sequences that end or join, sampling, beams."""

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from tiny_models import tiny_model_folder
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.lock_step import LockStepBatch
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import AdapterHubError, EngineError, RequestError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SIZES = EngineConfig(max_num_seqs=8, kv_cache_tokens=2048, block_size=8, rank_slots=32)
SOURCES = [[101, *range(210, 210 + 7 * count, 7), 102] for count in (3, 9, 5, 12, 7)]
NAMES = [None, "self", "cross", "encoder", "cross"]
#: Ends of the names of BART's layers that each adapter changes.
TARGETS = {
    "encoder": ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.fc1"),
    "cross": ("encoder_attn.v_proj", "encoder_attn.k_proj", "encoder_attn.q_proj"),
    "self": ("decoder.layers.0.self_attn.v_proj", "decoder.layers.1.fc2"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models"), "bart")


@pytest.fixture(scope="module")
def peers(folder):
    """peft's model of each adapter, alone on plain transformers."""
    found = {}
    for seed, (name, ends) in enumerate(TARGETS.items()):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        paths = [path for path, _ in model.named_modules() if path.endswith(ends)]
        config = LoraConfig(r=4, lora_alpha=16, target_modules=paths, init_lora_weights=False)
        config.task_type = "SEQ_2_SEQ_LM"
        found[name] = get_peft_model(model, config).eval()
    found[None] = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    return found


def load(folder, peers, quantization=PLAIN):
    engine = Engine(load_backbone(str(folder), quantization), SIZES)
    for name, model in peers.items():
        if name is not None:
            paths = tuple(sorted(model.peft_config["default"].target_modules))
            spec = LoraSpec(rank=4, alpha=16.0, target_modules=paths)
            tensors = {k: v.detach() for k, v in get_peft_model_state_dict(model).items()}
            engine.load_weights(AdapterWeights(spec, tensors), key=name, name=name)
    return engine


@pytest.fixture(scope="module")
def engine(folder, peers):
    engine = load(folder, peers)
    yield engine
    engine.close()


def expected(peers, folder, name, source, count, **options):
    """Return the tokens of transformers' ``generate`` for one source, without its end token."""
    model, tokenizer = peers[name], AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([source])
    start = torch.tensor([[model.config.decoder_start_token_id, tokenizer.cls_token_id]])
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            decoder_input_ids=start,
            max_new_tokens=count,
            do_sample=False,
            **options,
        )
    tokens = found[0, 2:].tolist()
    end = tokenizer.eos_token_id
    return tokens[: tokens.index(end)] if end in tokens else tokens


def tokens_of(outputs):
    assert [output.error for output in outputs] == [None] * len(outputs)
    return [list(output.tokens) for output in outputs]


def greedy(count, **settings):
    return SamplingParams(temperature=0, max_tokens=count, **settings)


def test_sequences_of_mixed_adapters_leave_a_batch_at_different_steps(
    engine, folder, peers, monkeypatch
):
    kept = []
    keep = LockStepBatch.keep

    def watched(batch, live):
        before = batch._inputs["encoder_outputs"].last_hidden_state
        kept.append(keep(batch, live))
        after = batch._inputs["encoder_outputs"].last_hidden_state
        assert torch.equal(after, before[live])
        return kept[-1]

    monkeypatch.setattr(LockStepBatch, "keep", watched)
    counts = [2, 12, 5, 9, 3]
    outputs = engine.generate(SOURCES, NAMES, [greedy(count) for count in counts])
    cases = zip(NAMES, SOURCES, counts, strict=True)
    assert tokens_of(outputs) == [expected(peers, folder, *case) for case in cases]
    assert len(kept) >= 3
    assert all(kept)
    assert len({tuple(each) for each in tokens_of(outputs)}) == len(SOURCES)


def test_a_sequence_that_comes_later_does_not_change_those_that_run(engine, folder, peers):
    first = engine.add(SOURCES[1], "cross", greedy(10))
    for _ in range(4):
        engine.step()
    second = engine.add(SOURCES[3], "self", greedy(6))
    while engine.busy:
        engine.step()
    assert tokens_of([first.output()]) == [expected(peers, folder, "cross", SOURCES[1], 10)]
    assert tokens_of([second.output()]) == [expected(peers, folder, "self", SOURCES[3], 6)]


def test_sampled_texts_are_those_of_each_request_alone(engine):
    params = [SamplingParams(temperature=1.0, top_p=0.9, seed=at, max_tokens=8) for at in range(5)]
    mixed = tokens_of(engine.generate(SOURCES, NAMES, params))
    alone = [
        tokens_of(engine.generate([source], [name], [own]))[0]
        for source, name, own in zip(SOURCES, NAMES, params, strict=True)
    ]
    assert mixed == alone
    assert mixed != tokens_of(engine.generate(SOURCES, NAMES, [greedy(8)] * 5))


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 2.0), (3, -1.0)])
def test_beams_of_mixed_adapters_are_those_of_transformers(engine, folder, peers, beams, penalty):
    params = greedy(7, num_beams=beams, length_penalty=penalty)
    outputs = engine.generate(SOURCES, NAMES, [params] * 5)
    options = {"num_beams": beams, "length_penalty": penalty}
    assert tokens_of(outputs) == [
        expected(peers, folder, name, source, 7, **options)
        for name, source in zip(NAMES, SOURCES, strict=True)
    ]


def test_beams_and_greedy_requests_run_side_by_side(engine, folder, peers):
    params = [greedy(6), greedy(6, num_beams=3), greedy(4, num_beams=3), greedy(6), greedy(6)]
    outputs = engine.generate(SOURCES, NAMES, params)
    for at, output in enumerate(outputs):
        own = params[at]
        wanted = expected(
            peers, folder, NAMES[at], SOURCES[at], own.max_tokens, num_beams=own.num_beams or 1
        )
        assert tokens_of([output]) == [wanted]
    assert engine.core.stats().running == 0


def test_an_end_token_ends_a_search(engine, folder, peers):
    plain = expected(peers, folder, "cross", SOURCES[2], 8, num_beams=3)
    end = plain[2]
    found = engine.generate(
        [SOURCES[2]], ["cross"], [greedy(8, num_beams=3, stop_token_ids=(end,))]
    )
    wanted = expected(peers, folder, "cross", SOURCES[2], 8, num_beams=3, eos_token_id=[end, 102])
    wanted = wanted[: wanted.index(end)] if end in wanted else wanted
    assert tokens_of(found) == [wanted]


def test_quantized_sequences_are_those_of_each_request_alone(folder, peers):
    engine = load(folder, peers, QuantizationSpec("nf4", "float32"))
    try:
        mixed = tokens_of(engine.generate(SOURCES, NAMES, [greedy(6)] * 5))
        alone = [
            tokens_of(engine.generate([source], [name], [greedy(6)]))[0]
            for source, name in zip(SOURCES, NAMES, strict=True)
        ]
    finally:
        engine.close()
    assert mixed == alone


def test_a_cancelled_sequence_leaves_the_others_as_they_are(engine, folder, peers):
    pairs = zip(SOURCES, NAMES, strict=True)
    requests = [engine.add(source, name, greedy(8)) for source, name in pairs]
    engine.step()
    engine.step()
    engine.cancel(requests[1])
    while engine.busy:
        engine.step()
    assert requests[1].output().finish_reason == "cancelled"
    for at in (0, 2, 3, 4):
        wanted = expected(peers, folder, NAMES[at], SOURCES[at], 8)
        assert tokens_of([requests[at].output()]) == [wanted]


def test_what_an_encoder_decoder_does_not_do_is_said(engine):
    with pytest.raises(EngineError, match="embeddings of an encoder-decoder"):
        engine.add_embedding("a river")
    weights = AdapterWeights(
        PrefixSpec(num_virtual_tokens=2), {"prompt_embeddings": torch.ones(2, 9)}
    )
    with pytest.raises(AdapterHubError, match=r"needs a decoder, .* is an encoder-decoder"):
        engine.load_weights(weights, key="prefix", name="prefix")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temperature": 1.0}, "num_beams 2 and temperature 1.0"),
        ({"temperature": 0, "logprobs": 1}, "num_beams 2 and logprobs 1"),
        ({"temperature": 0, "stop": ("a",)}, "num_beams 2 and stop"),
        ({"temperature": 0, "regex": "a+"}, "num_beams 2 and regex"),
    ],
)
def test_a_search_has_no_sampling_and_no_constraint(settings, problem):
    with pytest.raises(RequestError, match=problem):
        SamplingParams(num_beams=2, **settings)


def test_beams_on_a_decoder_are_refused(decoder):
    engine = Engine(load_backbone(str(decoder), PLAIN), SIZES)
    try:
        with pytest.raises(
            RequestError, match="num_beams: beams are for backbones with an encoder"
        ):
            engine.add([5, 6, 7], None, greedy(4, num_beams=2))
    finally:
        engine.close()


def test_a_search_lets_other_requests_advance_and_can_be_cancelled(engine, folder, peers):
    search = engine.add(SOURCES[1], "cross", greedy(12, num_beams=4))
    dropped = engine.add(SOURCES[3], "encoder", greedy(12, num_beams=2))
    engine.step()
    short = engine.add(SOURCES[0], "self", greedy(3))
    while not short.finished:
        engine.step()
    assert not search.finished
    engine.cancel(dropped)
    while engine.busy:
        engine.step()
    assert tokens_of([short.output()]) == [expected(peers, folder, "self", SOURCES[0], 3)]
    found = expected(peers, folder, "cross", SOURCES[1], 12, num_beams=4)
    assert tokens_of([search.output()]) == [found]
    assert dropped.output().outputs[0].finish_reason == "cancelled"
