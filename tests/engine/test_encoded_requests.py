"""Requests of encoded examples: labelled by a head, scored by the output layer, or embedded."""

import peft
import pytest
import torch
from pooling_helpers import make_labellers
from toy_fixtures import WORDS
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.packing import EncodedExample
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.errors import EngineError
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(kv_cache_tokens=64, rank_slots=64)
TEXTS = ["the film was good", "the meal was awful the day was fine", "song"]


@pytest.fixture
def engine_on():
    made = []

    def make(folder):
        made.append(Engine(load_backbone(str(folder), PLAIN), SMALL))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def run(engine, requests):
    while not all(request.finished for request in requests):
        engine.step()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_head_reads_encoded_examples_with_its_adapter_and_the_base_model(
    kind, encoder, decoder, engine_on
):
    folder = encoder if kind == "encoder" else decoder
    labellers = make_labellers(folder, kind)
    engine = engine_on(folder)
    requests = []
    for name, each in labellers.items():
        engine.load_weights(each.weights, key=name, name=name, task=each.task)
        for text in TEXTS:
            example = {"text": text, "tokens": text.split()}
            encoded = each.task.encode(example, 1, train=False)
            for base in (False, True):
                head = each.task.head
                request = engine.add_labeling(encoded, name, kind=head, base=base)
                requests.append((name, encoded, base, request))
    run(engine, [request for *_, request in requests])
    for name, encoded, base, request in requests:
        (found,) = request.results()
        # peft has no way to keep a head without the rest of its adapter
        wanted = headed(labellers[name], encoded) if base else labellers[name].logits(encoded)
        assert (found - wanted).abs().max() < 1e-4


def headed(labeller, encoded):
    """Return the logits of an adapter's head over the base model."""
    model = labeller.model
    head = next(
        module
        for name, module in model.named_modules()
        if name.endswith(("score", "classifier", "qa_outputs"))
    )
    ids = torch.tensor([list(encoded.input_ids)])
    stock = model.get_base_model()
    body = getattr(stock, stock.base_model_prefix)
    with torch.no_grad():
        with disabled(model):
            output = body(ids)
            states = output.last_hidden_state[0, list(encoded.select)]
            if getattr(body, "pooler", None) is not None and labeller.task.head == "sequence":
                states = body.pooler(states.unsqueeze(1))
        return head(states)


def disabled(model):
    prefix = model.active_peft_config.is_prompt_learning
    return torch.no_grad() if prefix else model.disable_adapter()


def test_scores_are_those_of_the_adapter_of_each_example(decoder, engine_on):
    torch.manual_seed(1)
    spec = LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj", "down_proj", "lm_head"))
    stock = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    model = peft.get_peft_model(
        stock,
        peft.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=list(spec.target_modules),
            task_type="CAUSAL_LM",
            init_lora_weights=False,
        ),
    ).eval()
    tensors = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = AdapterWeights(spec, {key: tensor.clone() for key, tensor in tensors.items()})
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    task = build_task("dialogue", tokenizer, "decoder", [], TaskOptions(max_length=32))
    engine = engine_on(decoder)
    engine.load_weights(weights, key="talk", name="talk", task=task)
    examples = [
        task.encode({"prompt": prompt, "response": response}, 1, train=True)
        for prompt, response in (("the film was good", "good"), ("the day", "fine bad fine"))
    ]
    requests = {
        (at, name): engine.add_scoring(example, name, task=task)
        for at, example in enumerate(examples)
        for name in ("talk", None)
    }
    run(engine, requests.values())
    for (at, name), request in requests.items():
        example = examples[at]
        with torch.no_grad(), torch.no_grad() if name else model.disable_adapter():
            logits = model(torch.tensor([list(example.input_ids)])).logits[0, list(example.select)]
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(example.targets))
        assert request.scores().mean_loss == pytest.approx(float(wanted), abs=1e-5)
        with pytest.raises(EngineError, match="has no prediction"):
            request.prediction()


def test_encoders_score_no_tokens(encoder, engine_on):
    with pytest.raises(EngineError, match="does not generate text"):
        engine_on(encoder).add_scoring(EncodedExample(1, [4], [0], [5]), task=None)


def test_selected_hidden_states_are_returned_as_they_are(encoder, engine_on):
    engine = engine_on(encoder)
    ids = [2, 6, 7, WORDS.index("good"), 3]
    some = engine.add_embedding(EncodedExample(1, ids, [0, 3]), pooling="selected")
    every = engine.add_embedding(EncodedExample(1, ids, range(5)), pooling="selected")
    run(engine, [some, every])
    (few,), (whole,) = some.results(), every.results()
    assert torch.equal(few, whole[[0, 3]])
