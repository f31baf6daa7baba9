"""Questions answered in the engine: as peft alone does it, beside adapters of other kinds."""

import asyncio
from dataclasses import dataclass

import pytest
import torch
from pooling_helpers import make_labeller
from tiny_configs import family_configs
from toy_fixtures import save_tokenizer
from transformers import AutoModelForCausalLM

from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.packing import pack
from adapterhub.engine.async_engine import AsyncEngine
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import DataError, EngineError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(max_num_seqs=4, kv_cache_tokens=256, rank_slots=32)
TARGETS = {"encoder": ("query", "dense"), "decoder": ("q_proj", "down_proj")}
SHORT = {"question": "the film was", "context": "the film was good the meal was bad"}
LONG = {"question": "the day", "context": "the song was dull and the day was good " * 12}
EMOJI = {"question": "good", "context": "  \u00e9\U0001f600 the film \U0001f600 was good"}
READS = {"one": {"stride": 6}, "two": {"unanswerable": True}}
EXAMPLES = [SHORT, LONG, EMOJI, {**SHORT, "question": "the meal"}]


@dataclass
class Kit:
    """An engine with adapters that answer, label and tag."""

    engine: object
    labellers: dict


@pytest.fixture(params=["encoder", "decoder"])
def kit(request):
    folder, kind = request.getfixturevalue(request.param), request.param
    spec = LoraSpec(rank=4, alpha=8.0, target_modules=TARGETS[kind])
    wanted = {"one": "span", "two": "span", "moods": "sequence", "things": "token"}
    labellers = {
        name: make_labeller(folder, kind, head, spec, seed, reads=READS.get(name))
        for seed, (name, head) in enumerate(wanted.items())
    }
    engine = Engine(load_backbone(str(folder), PLAIN), SMALL)
    for name, each in labellers.items():
        engine.load_weights(each.weights, key=name, name=name, task=each.task)
    yield Kit(engine, labellers)
    engine.close()


def alone(labeller, example):
    """Return what peft's model and the task make of a example, window by window."""
    task, parts = labeller.task, []
    for window in task.windows(example):
        example = task.encode(window, 1, train=False)
        (found,) = task.decode(lambda h: h, labeller.logits(example), pack([example]))
        parts.append(task.prediction(window, found))
    return task.join(parts)


def test_answers_are_those_of_peft_alone_also_in_long_contexts(kit):
    names = ["one", "two", "two", "one"]
    found = kit.engine.label(EXAMPLES, names, kind="span")
    for example, name, answer in zip(EXAMPLES, names, found, strict=True):
        assert answer == pytest.approx(alone(kit.labellers[name], example), abs=1e-4)
        assert answer["answer"] == example["context"][answer["start"] : answer["end"]]
    assert len(kit.labellers["one"].task.windows(LONG)) > 3


def test_questions_share_a_forward_pass_with_texts_that_are_labelled(kit):
    engine = kit.engine
    requests = [
        engine.add_labeling(SHORT, "one", kind="span"),
        engine.add_labeling("the film was good", "moods"),
        engine.add_labeling("the meal was bad", "things", kind="token"),
        engine.add_labeling(SHORT, "two", kind="span"),
    ]
    engine.step()
    assert all(request.finished for request in requests)
    assert engine.stats().pooled == 4
    for request, name in ((requests[0], "one"), (requests[3], "two")):
        assert request.prediction() == pytest.approx(alone(kit.labellers[name], SHORT), abs=1e-4)
    assert requests[1].prediction()["label"] in ("glad", "sad", "odd")


def test_a_question_without_an_answer_has_none(kit):
    examples = [dict(SHORT, context=f"the film {word}") for word in ("was", "good", "bad")]
    found = kit.engine.label(examples, "two", kind="span")
    for example, answer in zip(examples, found, strict=True):
        none = answer["no_answer"] > alone_score(kit.labellers["two"], example)
        assert (answer["answer"] == "") == none
        assert not none or (answer["start"], answer["end"]) == (0, 0)


def alone_score(labeller, example):
    (window,) = labeller.task.windows(example)
    example = labeller.task.encode(window, 1, train=False)
    (found,) = labeller.task.decode(lambda h: h, labeller.logits(example), pack([example]))
    return found.score


def test_it_is_the_same_for_asyncio(kit):
    async def ask_all():
        engine = AsyncEngine(kit.engine)
        try:
            requests = [
                engine.label(example, name, kind="span")
                for example in EXAMPLES
                for name in ("one", "two")
            ]
            with pytest.raises(DataError, match="context"):
                await engine.label({"question": "good"}, "one", kind="span")
            return await asyncio.gather(*requests)
        finally:
            await engine.close()

    found = asyncio.run(ask_all())
    wanted = [
        alone(kit.labellers[name], example) for example in EXAMPLES for name in ("one", "two")
    ]
    assert found == [pytest.approx(each, abs=1e-4) for each in wanted]


def test_other_heads_are_rejected_with_the_right_method(kit):
    with pytest.raises(EngineError, match="text-classification") as caught:
        kit.engine.label([SHORT], "moods", kind="span")
    assert caught.value.hint == "Use classify"
    with pytest.raises(EngineError) as caught:
        kit.engine.label([SHORT], "one")
    assert caught.value.hint == "Use answer"


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_decoders_answer_whatever_their_class_calls_the_base_model(tmp_path, family, method):
    torch.manual_seed(1)
    config = family_configs()[family]
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=False)
    lora = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",))
    spec = lora if method == "lora" else PrefixSpec(num_virtual_tokens=3)
    labeller = make_labeller(tmp_path, "decoder", "span", spec, 3)
    engine = Engine(load_backbone(str(tmp_path), PLAIN), SMALL)
    engine.load_weights(labeller.weights, key="x", name="x", task=labeller.task)
    (found,) = engine.label([SHORT], "x", kind="span")
    engine.close()
    assert found == pytest.approx(alone(labeller, SHORT), abs=1e-4)
