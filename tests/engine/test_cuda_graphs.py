"""Decoding steps over buffers that never move answer as steps that are computed anew."""

import pytest
import torch
from engine_helpers import greedy, greedy_params, make_peer, some_specs
from transformers import AutoModelForCausalLM

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.cuda_graphs import DecodeGraphs, can_capture, sizes_for
from adapterhub.engine.decode_buffers import DecodeBuffers, DecodeSequence, DecodeSizes
from adapterhub.engine.engine import Engine
from adapterhub.engine.model_runner import ModelRunner
from adapterhub.kernels.attention import cpu
from adapterhub.kernels.attention.kv_cache import KeyValueCache
from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import PagedSequence, attend_paged, paged_batch
from adapterhub.kernels.attention.reference import attend_pages
from adapterhub.kernels.choice import choose_paged_attention
from adapterhub.kernels.lora.plan import RankSlice, build_plan
from adapterhub.specs import QuantizationSpec

# where there is a GPU, all of these are tests of it
pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=3, max_num_batched_tokens=16, kv_cache_tokens=96, block_size=4, rank_slots=32
)


@pytest.fixture(scope="module")
def peers(decoder):
    return {f"a{i}": make_peer(decoder, spec, i) for i, spec in enumerate(some_specs())}


@pytest.fixture(scope="module")
def base_model(decoder):
    return AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()


class Recorder:
    """Stands for a recorder of CUDA graphs where there is no GPU: repeats by computing again."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, compute):
        self.recorded += 1

        def replay():
            self.replayed += 1
            return compute()

        return replay


def engine_of(decoder, peers, attention=attend_pages, **changes):
    """Return an engine of Triton's kernel, and the recorder of its decoding steps."""
    pytest.importorskip("triton", reason="triton is not installed")
    from adapterhub.kernels.lora.triton import TritonLoraKernel

    engine = Engine(load_backbone(str(decoder), PLAIN), SMALL, kernel=TritonLoraKernel())
    # on a GPU the forward pass is transformers' own
    engine.core.model_runner.fast = None
    recorder, layers = Recorder(), len(engine.core.layers.linear)
    if not torch.cuda.is_available():
        sizes = sizes_for(SMALL)
        sizes = DecodeSizes(
            sizes.batch_sizes, sizes.max_length, sizes.max_slices, sizes.max_ranks, **changes
        )
        buffers = DecodeBuffers(engine.core.model_runner.cache, layers, sizes, attention)
        engine.core.model_runner.graphs = DecodeGraphs(
            engine.core.model_runner.forward, buffers, layers, recorder
        )
    for name, peer in peers.items():
        engine.load_weights(peer.weights, key=f"sha256:{name}", name=name)
    return engine, recorder


def run(engine, requests):
    return [
        list(answer.tokens)
        for completion in engine.generate(
            [prompt for prompt, _, _ in requests],
            [name for _, name, _ in requests],
            [greedy_params(count) for _, _, count in requests],
        )
        for answer in completion.outputs
    ]


def test_sequences_of_replayed_steps_equal_peft_alone(decoder, peers, base_model):
    """Adapters have different layers and ranks; a prefix; sequences end at different steps."""
    engine, recorder = engine_of(decoder, peers)
    requests = [
        ([6, 7, 8], "a0", 5),
        ([9, 10], "a1", 3),
        ([11, 12, 13, 14, 15], None, 4),
        ([20, 21], "a4", 3),
        ([22], "a2", 2),
    ]
    for found, (prompt, name, count) in zip(run(engine, requests), requests, strict=True):
        expected = peers[name].greedy(prompt, count) if name else greedy(base_model, prompt, count)
        assert found == expected[0]
    graphs = engine.core.model_runner.graphs
    assert graphs.captured(3, adapted=True) is not None
    assert graphs.captured(SMALL.max_num_seqs + 1, adapted=True) is None
    engine.close()
    if not torch.cuda.is_available():
        assert recorder.replayed >= 4
        assert recorder.recorded <= 2 * len(sizes_for(SMALL).batch_sizes)


def test_a_base_model_sequence_gets_the_same_bits_beside_any_adapter(decoder, peers, monkeypatch):
    engine, _ = engine_of(decoder, peers)
    states = []
    for beside in (None, "a0", [("a0", 0.5), ("a1", 0.25)]):
        request = engine.add([6, 7, 8], None, greedy_params(3))
        engine.add([9, 10], beside, greedy_params(3))
        hidden = []
        inner = ModelRunner.__call__

        def kept(runner, chunks, inner=inner, hidden=hidden):
            found = inner(runner, chunks)
            hidden.append(found[0].clone())
            return found

        with monkeypatch.context() as patched:
            patched.setattr(ModelRunner, "__call__", kept)
            while engine.busy:
                engine.step()
        assert request.output().outputs[0].tokens
        states.append(torch.stack(hidden))
    engine.close()
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_captured_steps_see_an_adapter_in_the_rank_slots_of_another(decoder, peers):
    attention = choose_paged_attention("cuda")
    engine, recorder = engine_of(decoder, {"a0": peers["a0"]}, attention)
    assert run(engine, [([6, 7], "a0", 3)]) == [peers["a0"].greedy([6, 7], 3)[0]]
    before = recorder.recorded
    engine.unload("a0")
    engine.load_weights(peers["a3"].weights, key="sha256:a3", name="a0")
    assert run(engine, [([6, 7], "a0", 3)]) == [peers["a3"].greedy([6, 7], 3)[0]]
    engine.close()
    assert recorder.recorded == before


def test_what_cannot_be_replayed_is_computed(decoder, peers, base_model):
    """DoRA, and more sets of layers than the buffers have room for."""
    engine, recorder = engine_of(decoder, peers, max_layer_sets=1)
    assert run(engine, [([6, 7], "a6", 3)]) == [peers["a6"].greedy([6, 7], 3)[0]]
    assert recorder.replayed == 0
    assert run(engine, [([6, 7], "a1", 3)]) == [peers["a1"].greedy([6, 7], 3)[0]]
    assert recorder.replayed == 0 or not torch.cuda.is_available()
    engine.close()


def test_steps_are_computed_after_a_failed_capture(decoder, base_model, caplog):
    engine, _ = engine_of(decoder, {})

    def refuse(compute):
        raise RuntimeError("operation not permitted when stream is capturing")

    engine.core.model_runner.graphs._capture = refuse
    assert run(engine, [([6, 7], None, 4)]) == [greedy(base_model, [6, 7], 4)[0]]
    engine.close()
    warnings = [r for r in caplog.records if "CUDA graphs are disabled" in r.message]
    assert len(warnings) == 1


def cache_of():
    return KeyValueCache(
        layers=1,
        heads=1,
        width=4,
        blocks=7,
        block_size=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def buffers_of(layers=2):
    return DecodeBuffers(cache_of(), layers, DecodeSizes((2, 4), 16, 4, 8, 1), attend_pages)


def test_steps_are_padded_with_tokens_that_write_to_the_last_block():
    buffers = buffers_of()
    inputs = {size: buffers.inputs(size, adapted=True) for size in (2, 4)}
    sequences = [DecodeSequence(50 + index, 5 + index, [index, index + 3]) for index in range(3)]
    for count, size in ((3, 4), (1, 2), (2, 2)):
        assert buffers.batch_size(count) == size
        buffers.fill(sequences[:count], [None, None])
        view = inputs[size]
        pages = view.paged.decode.pages
        real, inert = range(count), range(count, size)
        assert view.ids.tolist() == [[50 + i for i in real] + [0 for _ in inert]]
        assert view.positions.tolist() == [[5 + i for i in real] + [0 for _ in inert]]
        writes = [(i + 3) * 4 + 1 + i for i in real] + [24 + i for i in inert]
        assert view.paged.slot_mapping.tolist() == writes
        assert pages.context_lens.tolist() == [6 + i for i in real] + [1 for _ in inert]
        first = [int(pages.indices[offset]) for offset in pages.offsets]
        assert first == [*real, *(6 for _ in inert)]


def test_inputs_keep_their_addresses():
    buffers = buffers_of()
    before, after = buffers.inputs(4, adapted=True), buffers.inputs(4, adapted=True)
    buffers.fill([DecodeSequence(1, 0, [0])], [build_plan([(1, (RankSlice(0, 2, 1.0),))]), None])
    for view in (before, after):
        assert view.ids.tolist() == [[1, 0, 0, 0]]
        # the first layer has a plan, the second the empty one
        assert [int(view.context.plan(layer).group) for layer in (0, 1)] == [1, 0]
        # an embedding's or a norm layer's hook, which looks for a plan at every forward pass
        assert view.context.plan(2) is None
    assert before.ids.data_ptr() == after.ids.data_ptr()
    assert buffers.inputs(4, adapted=False).context.plan(0) is None


def test_steps_that_exceed_the_buffers_do_not_fit():
    buffers, plan = buffers_of(), build_plan([(1, (RankSlice(0, 2, 1.0),))])
    sequence = DecodeSequence(1, 0, [0])
    assert buffers.fits([sequence] * 4, [plan, plan])
    assert not buffers.fits([sequence] * 5, [None, None])
    assert not buffers.fits([DecodeSequence(1, 0, [0] * 5)], [None, None])
    assert not buffers.fits([sequence], [plan, build_plan([(1, (RankSlice(2, 2, 1.0),))])])
    assert not buffers.fits([sequence], [build_plan([(1, (RankSlice(0, 9, 1.0),))]), None])


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("tokens", [(1, 1, 1), (1, 4, 1)])
def test_sequences_of_one_token_on_a_gpu_see_what_they_see_on_a_cpu(window, tokens):
    cache, draw = cache_of(), torch.Generator().manual_seed(1)
    for table in (*cache.keys, *cache.values):
        table.copy_(torch.randn(table.shape, generator=draw))
    places, sequences = torch.randperm(28, generator=draw), []
    for index, count in enumerate(tokens):
        start = sum(tokens[:index])
        sequences.append(
            PagedSequence(start, count, 5 + index, places[8 * index : 8 * index + 5 + index])
        )
    params = AttentionParams(layer=0, causal=True, window=window, scale=0.5)
    query = torch.randn(sum(tokens), 2, 4, generator=draw)
    found, expected = (
        attend_paged(query, paged_batch(cache, sequences, kernel), params)
        for kernel in (attend_pages, cpu.attend_pages)
    )
    assert torch.allclose(found, expected, atol=1e-6)


def test_sizes_are_powers_of_two_up_to_the_most_sequences():
    assert sizes_for(EngineConfig(max_num_seqs=1)).batch_sizes == (1,)
    assert sizes_for(EngineConfig(max_num_seqs=8)).batch_sizes == (1, 2, 4, 8)
    assert sizes_for(EngineConfig(max_num_seqs=20)).batch_sizes == (1, 2, 4, 8, 16, 20)


@pytest.mark.parametrize(
    ("rope", "can"),
    [
        ({"rope_type": "default"}, True),
        ({"rope_type": "dynamic", "factor": 2.0}, False),
        ({"full_attention": {"rope_type": "longrope"}}, False),
        ({"full_attention": {"rope_type": "linear"}}, True),
    ],
)
def test_positions_whose_frequencies_vary_are_not_captured(rope, can):
    class Config:
        rope_parameters = rope

    assert can_capture(Config()) is can


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_steps_equal_computed_ones(decoder, peers):
    requests = [([6, 7, 8], "a0", 6), ([9, 10], "a1", 4), ([11, 12], None, 8)]
    captured, _ = engine_of(decoder, peers)
    assert captured.core.model_runner.graphs is not None
    captured.core.model_runner.graphs.prepare()
    found = run(captured, requests)
    captured.close()
    computed, _ = engine_of(decoder, peers)
    computed.core.model_runner.graphs = None
    assert run(computed, requests) == found
    computed.close()
