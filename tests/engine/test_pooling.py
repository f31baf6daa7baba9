"""Pooling requests of a mixed batch have the results that each has alone with peft."""

import asyncio

import peft
import pytest
import torch
from engine_helpers import greedy, make_peer
from engine_helpers import greedy_params as answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pooling_helpers import ENCODER_SPECS, base_model_of, hidden_of, make_labeller, make_labellers
from tiny_configs import WINDOW, family_configs
from toy_fixtures import GLAD, SAD, THINGS, save_tokenizer
from transformers import AutoModelForCausalLM

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import DataError, EngineError, NotFoundError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

PLAIN = QuantizationSpec("none", "float32")
TOLERANCE = 1e-4
WORDS = ["the", "was", *THINGS, *GLAD, *SAD]
ROOMY = EngineConfig(kv_cache_tokens=256, rank_slots=64)
#: Room for two adapters or three, and for a few requests.
TIGHT = EngineConfig(kv_cache_tokens=256, rank_slots=12, max_pooling_tokens=40)


def engine_of(folder, labellers, settings=ROOMY):
    engine = Engine(load_backbone(str(folder), PLAIN), settings)
    for name, each in labellers.items():
        engine.load_weights(each.weights, key=f"sha256:{name}", name=name, task=each.task)
    return engine


@pytest.fixture(scope="module")
def encoders(encoder):
    return make_labellers(encoder, "encoder")


@pytest.fixture(scope="module")
def decoders(decoder):
    return make_labellers(decoder, "decoder")


@pytest.fixture(scope="module")
def roomy(encoder, encoders):
    engine = engine_of(encoder, encoders)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tight(encoder, encoders):
    engine = engine_of(encoder, encoders, TIGHT)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def unloaded(encoder):
    engine = engine_of(encoder, {})
    yield engine
    engine.close()


def add_labeling(engine, labellers, text, name):
    """Ask for labels by the adapter's head; without an adapter, for an embedding."""
    if name is None:
        return engine.add_embedding(text)
    return engine.add_labeling(text, name, kind=labellers[name].task.head)


def wait(engine, requests):
    while not all(request.finished for request in requests):
        engine.step()


def assert_as_alone(request, labellers, name, body):
    if name is None:
        expected = hidden_of(body, request.sequences[0].example.input_ids).mean(dim=0)
        assert (request.embedding() - expected).abs().max() < TOLERANCE
        return
    for each, result in zip(request.sequences, request.results(), strict=True):
        expected = labellers[name].logits(each.example)
        assert (result - expected).abs().max() < TOLERANCE, name


TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=28).map(" ".join)
ITEMS = st.lists(st.tuples(TEXT, st.sampled_from([None, *ENCODER_SPECS])), min_size=1, max_size=9)
MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(items=ITEMS)
def test_every_request_of_a_mix_equals_peft_alone(encoder, encoders, tight, items):
    body = base_model_of(encoder)
    requests = [add_labeling(tight, encoders, text, name) for text, name in items]
    wait(tight, requests)
    for request, (_, name) in zip(requests, items, strict=True):
        assert_as_alone(request, encoders, name, body)


@MANY
@given(items=ITEMS)
def test_a_request_without_an_adapter_is_to_the_bit_as_if_none_were_loaded(
    encoders, roomy, unloaded, items
):
    requests = [add_labeling(roomy, encoders, text, name) for text, name in items]
    wait(roomy, requests)
    alike = [unloaded.add_embedding(text) for text, _ in items]
    wait(unloaded, alike)
    for request, other, (_, name) in zip(requests, alike, items, strict=True):
        if name is None:
            assert torch.equal(request.embedding(), other.embedding())


def test_decoder_requests_of_all_kinds_equal_peft_alone(decoder, decoders):
    engine = engine_of(decoder, decoders, TIGHT)
    body = base_model_of(decoder)
    texts = [" ".join(WORDS[: 1 + (5 * i) % 13]) for i in range(14)]
    names = [None, *decoders, None, *reversed(decoders)]
    requests = [
        add_labeling(engine, decoders, text, name) for text, name in zip(texts, names, strict=True)
    ]
    wait(engine, requests)
    assert engine.stats().evictions > 0
    assert engine.stats().pooled == len(requests)
    engine.close()
    for request, name in zip(requests, names, strict=True):
        assert_as_alone(request, decoders, name, body)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_sliding_windows_of_attention_are_kept(tmp_path, family):
    torch.manual_seed(2)
    config = family_configs()[family]
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=False)
    spec = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj", "o_proj"))
    labellers = {"a": make_labeller(tmp_path, "decoder", "sequence", spec, 1)}
    engine = engine_of(tmp_path, labellers)
    body = base_model_of(tmp_path)
    text = " ".join(WORDS * 2)
    assert len(text.split()) > 3 * WINDOW
    items = [(text, None), (text, "a"), ("the film", "a"), ("the film", None)]
    requests = [add_labeling(engine, labellers, each, name) for each, name in items]
    wait(engine, requests)
    engine.close()
    for request, (_, name) in zip(requests, items, strict=True):
        assert_as_alone(request, labellers, name, body)


def test_norm_layers_of_an_adapter_are_used_by_its_own_requests(tmp_path):
    """Gemma's norms of queries and keys come with heads before tokens."""
    for family, names in (
        ("llama", ["norm", "input_layernorm"]),
        ("gemma3", ["q_norm", "k_norm", "post_feedforward_layernorm", "norm"]),
        ("qwen3", ["q_norm", "norm"]),
    ):
        folder = tmp_path / family
        torch.manual_seed(3)
        config = family_configs()[family]
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        save_tokenizer(folder, encoder=False)
        spec = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",))
        labellers = {
            f"a{i}": make_labeller(
                folder, "decoder", "sequence", spec, i, modules_to_save=list(names)
            )
            for i in range(2)
        }
        engine = engine_of(folder, labellers)
        items = [
            ("the film was", "a0"),
            ("the day", None),
            ("a song", "a1"),
            ("the film was", None),
        ]
        requests = [add_labeling(engine, labellers, text, name) for text, name in items]
        wait(engine, requests)
        for request, (_, name) in zip(requests, items, strict=True):
            assert_as_alone(request, labellers, name, base_model_of(folder))
        with pytest.raises(EngineError, match=r"norm layers.*cannot be blended"):
            engine.add_labeling("the film", [("a0", 0.5)])
        engine.close()


def test_norm_layers_of_an_adapter_are_used_in_generation(decoder):
    spec = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",))
    peer = make_peer(decoder, spec, 3, modules_to_save=["norm", "input_layernorm"])
    with torch.no_grad():
        for key, parameter in peer.model.named_parameters():
            if "modules_to_save" in key:
                parameter.add_(0.5 * torch.randn(64))
    tensors = peft.get_peft_model_state_dict(peer.model)
    engine = Engine(load_backbone(str(decoder), PLAIN), ROOMY)
    engine.load_weights(AdapterWeights(spec, tensors), key="n", name="n")
    found = engine.generate([[7, 8, 9], [7, 8, 9]], ["n", None], answer(8))
    engine.close()
    assert list(found[0].tokens) == peer.greedy([7, 8, 9], 8)[0]
    base_model = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()
    assert list(found[1].tokens) == greedy(base_model, [7, 8, 9], 8)[0]
    assert found[0].tokens != found[1].tokens


def test_a_blend_is_read_by_the_head_of_the_one_that_has_one(decoder, decoders):
    engine = engine_of(decoder, decoders)
    other = make_peer(decoder, LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",)), 9)
    engine.load_weights(other.weights, key="other", name="other")
    text = "the film was good"
    blends = [[("s0", 1.0), ("other", weight)] for weight in (1.0, 0, 0.5)]
    whole, none, half, alone = (engine.add_labeling(text, each) for each in (*blends, "s0"))
    wait(engine, [whole, none, half, alone])
    logits = [request.results()[0] for request in (whole, none, half, alone)]
    assert torch.allclose(logits[1], logits[3], atol=TOLERANCE)
    assert not torch.allclose(logits[0], logits[3], atol=0.01)
    assert not torch.allclose(logits[0], logits[2], atol=0.01)
    with pytest.raises(EngineError, match="2 of the adapters have a head"):
        engine.add_labeling("the film", [("s0", 1.0), ("s2", 1.0)])
    with pytest.raises(EngineError, match=r"0 of the adapters have a head.*Use generate or embed"):
        engine.add_labeling("the film", "other")
    with pytest.raises(EngineError, match="Use tag"):
        engine.add_labeling("the film", "t0")
    engine.close()


def test_embeddings_are_pooled_and_normalized_as_requested(decoder, decoders):
    engine = engine_of(decoder, decoders)
    body = base_model_of(decoder)
    texts = ["the film was good", "dull"]
    found = engine.embed(texts, pooling="last", normalize=True)
    adapted = engine.embed(texts, ["s0", None])
    for index, text in enumerate(texts):
        states = hidden_of(body, engine.backbone.tokenizer(text)["input_ids"])
        expected = states[-1] / states[-1].norm()
        assert (found[index] - expected).abs().max() < TOLERANCE
    ids = engine.backbone.tokenizer(texts[0])["input_ids"]
    assert (adapted[0] - decoders["s0"].hidden(ids).mean(dim=0)).abs().max() < TOLERANCE
    assert found.dtype == torch.float32
    assert found.shape == (2, 64)
    engine.close()


def test_text_pairs_have_their_segments(encoder, encoders, roomy, monkeypatch):
    tokenizer = encoders["s0"].task.texts.tokenizer
    item = {"text": "the film was good", "text_pair": "the meal was bad"}
    pair = tokenizer(item["text"], item["text_pair"])
    ids = pair["input_ids"]
    example = encoders["s0"].task.encode(item, 1, train=False)
    request = roomy.add_labeling(item, "s0")
    wait(roomy, [request])
    assert list(example.input_ids) == ids
    expected = encoders["s0"].logits(example)
    assert (request.results()[0] - expected).abs().max() < TOLERANCE


def test_an_error_reaches_only_its_own_request(encoder, encoders):
    tensors = {k: t.clone() for k, t in encoders["s0"].weights.tensors.items()}
    key = next(key for key in tensors if "lora_B" in key and "value" in key)
    # finite itself, also when scaled, but not what it computes
    tensors[key][:] = 1.5e38
    engine = engine_of(encoder, encoders)
    broken = AdapterWeights(encoders["s0"].weights.spec, tensors)
    engine.load_weights(broken, key="broken", name="broken", task=encoders["s0"].task)
    good, bad = engine.add_labeling("the film", "s0"), engine.add_labeling("the film", "broken")
    long, plain = engine.add_embedding(" ".join(WORDS * 6)), engine.add_embedding("the film")
    wait(engine, [good, bad, long, plain])
    with pytest.raises(EngineError, match="NaN or infinite"):
        bad.prediction()
    with pytest.raises(EngineError, match=r"86 tokens.* 1 to 64"):
        long.embedding()
    expected = encoders["s0"].logits(good.sequences[0].example)
    assert (good.results()[0] - expected).abs().max() < TOLERANCE
    assert torch.isfinite(plain.embedding()).all()
    with pytest.raises(DataError, match="text is empty"):
        engine.label(["  "], ["s0"])
    with pytest.raises(NotFoundError):
        engine.label(["the film"], ["s9"])
    with pytest.raises(EngineError, match="1 adapters for 2 texts"):
        engine.label(["the film", "the day"], ["s0"])
    engine.close()


def test_an_encoder_does_not_generate(encoder, encoders):
    engine = engine_of(encoder, encoders)
    with pytest.raises(EngineError, match="does not generate text"):
        engine.add([7, 8])
    (completion,) = engine.generate([[7, 8]], [None])
    assert isinstance(completion.error, EngineError)
    assert engine.stats().cache_bytes == 0
    engine.close()


def test_pooling_requests_run_between_decoding_steps(decoder, decoders):
    engine = engine_of(decoder, decoders)
    base_model = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()
    (sequence,) = engine.add([7, 8, 9], None, answer(6)).sequences
    engine.step()
    assert len(engine.label(["the film was good"], ["s0"])) == 1
    assert not sequence.finish_reason
    while engine.busy:
        engine.step()
    engine.close()
    assert sequence.output_tokens == greedy(base_model, [7, 8, 9], 6)[0]


def test_many_texts_are_awaited_at_once(decoder, decoders):
    engine = engine_of(decoder, decoders)
    texts = ["the film was good", "dull", "the day was fine"]

    async def ask_all():
        running = AsyncEngine(engine)
        classified = [running.label(text, "s0") for text in texts]
        found = await asyncio.gather(
            *classified,
            running.label(texts[0], "t0", kind="token"),
            running.embed(texts[1]),
            running.generate([7], None, answer(3)),
        )
        with pytest.raises(EngineError, match="Use tag"):
            await running.label("dull", "t0")
        with pytest.raises(EngineError, match="has 3000 tokens"):
            await running.embed([7] * 3000)
        await running.close()
        return found

    *labels, spans, vector, _ = asyncio.run(ask_all())
    for found, wanted in zip(labels, engine.label(texts, "s0"), strict=True):
        assert found["scores"] == pytest.approx(wanted["scores"], abs=TOLERANCE)
    (wanted,) = engine.label(texts[:1], "t0", kind="token")
    assert [span["text"] for span in spans["spans"]] == [span["text"] for span in wanted["spans"]]
    assert torch.allclose(vector, engine.embed([texts[1]])[0], atol=TOLERANCE)
    engine.close()


def test_the_first_request_is_always_in_the_next_batch(decoder, decoders):
    engine = engine_of(decoder, decoders, TIGHT)
    long = engine.add_embedding([7] * 60)
    short = [engine.add_embedding([7] * 12) for _ in range(7)]
    done = []
    while engine.busy:
        before = [request.finished for request in (long, *short)]
        engine.step()
        after = [request.finished for request in (long, *short)]
        done.append([i for i, (a, b) in enumerate(zip(before, after, strict=True)) if b > a])
    engine.close()
    assert done == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_adapters_that_never_fit_together_are_an_error_and_not_a_wait(decoder, decoders):
    small = EngineConfig(kv_cache_tokens=64, rank_slots=9)
    engine = engine_of(decoder, decoders, small)
    with pytest.raises(EngineError, match="has rank 12, the engine has 9 rank slots"):
        engine.embed(["the film"], [[("s0", 1.0), ("t0", 1.0)]])
    assert len(engine.embed(["the film"], "s0")) == 1
    engine.close()


def test_long_texts_are_tagged_in_windows_and_artifacts_answer_alike(
    recipe, encoder, moods, tmp_path
):
    tagged = tmp_path / "tags.jsonl"
    tagged.write_text(
        "".join(
            f'{{"tokens": ["the", "{thing}", "was", "{word}"], "tags": ["O", "B-T", "O", "B-M"]}}\n'
            for thing in THINGS
            for word in (*GLAD, *SAD)
        )
    )
    artifacts = {
        "mood": load_recipe(recipe("mood", encoder, "text-classification", moods)),
        "tags": load_recipe(recipe("tags", encoder, "token-classification", tagged)),
    }
    local, backbone = LocalEngine(load_backbone(str(encoder))), load_backbone(str(encoder))
    before = state_digest(backbone.base_model)
    engine = Engine(backbone, ROOMY)
    for name, each in artifacts.items():
        artifact = read_artifact(train(each, output=tmp_path / name).artifact)
        local.load(artifact, name=name)
        engine.load(artifact, name=name)
    moods_asked = ["the song was great", "the meal was awful"]
    long = "the film was good . " * 12
    labels = engine.label(moods_asked, "mood")
    (spans,) = engine.label([long], ["tags"], kind="token")
    engine.close()
    assert state_digest(backbone.base_model) == before
    expected = local.adapter("mood").predict([{"text": text} for text in moods_asked])
    assert [each["label"] for each in labels] == ["glad", "sad"]
    for one, other in zip(labels, expected, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=0.02)
    (wanted,) = local.adapter("tags").predict([{"text": long}])
    # the text has more words than one window
    assert max(span["start"] for span in spans["spans"]) > len(long) // 2
    for one, other in zip(spans["spans"], wanted["spans"], strict=True):
        assert {**one, "score": 0} == {**other, "score": 0}


def test_prefixes_on_encoders_are_rejected(encoder, encoders):
    engine = engine_of(encoder, {})
    weights = AdapterWeights(
        PrefixSpec(num_virtual_tokens=3), {"prompt_embeddings": torch.zeros(3, 2 * 2 * 64)}
    )
    with pytest.raises(Exception, match="prefix"):
        engine.load_weights(weights, key="p", name="p")
    engine.close()
