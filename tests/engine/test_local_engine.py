"""Every task in a local engine: predictions, metrics and texts are those of plain peft."""

import json
import random

import pytest
import torch
from peft_references import PeftReference
from toy_fixtures import GLAD, SAD, THINGS
from vision_backbones import save_vision, shape_image

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.images import ImageFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.specs import QuantizationSpec
from adapterhub.training.recipe_file import parse_recipe
from adapterhub.training.train import train
from adapterhub.workflows.score import score_examples

PLAIN = QuantizationSpec("none", "float32")
TOLERANCE = 1e-4


def sentence(number):
    draw = random.Random(number)
    good = draw.random() < 0.5
    thing, word = draw.choice(THINGS), draw.choice(GLAD if good else SAD)
    # of many lengths
    more = " ".join(draw.choices(THINGS, k=number % 7))
    return f"{more} the {thing} was {word}".strip(), thing, word, good


def mood(number):
    text, _, _, good = sentence(number)
    return {"text": text, "label": "glad" if good else "sad"}


def moods(number):
    text, thing, _, good = sentence(number)
    return {"text": text, "label": [thing, *(["glad"] if good else [])]}


def tags(number):
    text, _, word, _ = sentence(number)
    tokens = text.split()
    return {
        "tokens": tokens,
        "tags": ["B-T" if each in THINGS else "B-M" if each == word else "O" for each in tokens],
    }


def relation(number):
    text, thing, word, good = sentence(number)
    start = text.rindex(thing)
    marked = f"{text[:start]}<e1>{thing}</e1> was <e2>{word}</e2>"
    return {"text": marked, "label": "Is(e1,e2)" if good else "Is(e2,e1)"}


def ranked(number):
    text, thing, _, good = sentence(number)
    return {
        "history": [f"{thing} good"],
        "candidate": text,
        "label": int(good),
        "group": number % 4,
    }


def question(number):
    text, thing, word, _ = sentence(number)
    # longer than one window
    context = f"{'the day was fine ' * (number % 9)}{text}"
    answers = {"text": [word], "answer_start": [len(context) - len(word)]}
    return {"context": context, "question": f"the {thing} was", "answers": answers}


def talk(number):
    text, _, _, good = sentence(number)
    return {"prompt": text, "response": "good fine" if good else "bad"}


def translated(number):
    text, _, _, good = sentence(number)
    return {"source": text, "target": "good fine" if good else "bad"}


def summarized(number):
    text, thing, word, _ = sentence(number)
    return {"document": text, "summary": f"{thing} {word}"}


def asked(number):
    text, thing, word, _ = sentence(number)
    return {"context": text, "question": f"the {thing} was", "answers": [word]}


CASES = {
    "classification": ("encoder", "text-classification", mood, {}),
    "classification-decoder": ("decoder", "text-classification", mood, {}),
    "multi-label": ("encoder", "text-classification", moods, {"multi_label": True}),
    "tags": ("encoder", "token-classification", tags, {"max_length": 8}),
    "tags-decoder": ("decoder", "token-classification", tags, {}),
    "relations": ("encoder", "relation-extraction", relation, {}),
    "ranking": ("encoder", "ranking", ranked, {}),
    "answers": ("encoder", "question-answering", question, {"max_length": 24, "stride": 4}),
    "answers-decoder": ("decoder", "question-answering", question, {"max_length": 48}),
    "dialogue": ("decoder", "dialogue", talk, {}),
    "prefix": ("decoder", "dialogue", talk, {}),
    "translation": ("decoder", "translation", translated, {"max_new_tokens": 6}),
    "summaries": ("decoder", "summarization", summarized, {"max_new_tokens": 6}),
    "free-answers": (
        "decoder",
        "generative-question-answering",
        asked,
        {"max_new_tokens": 6, "max_length": 64},
    ),
}
PREFIX = {"method": "prefix", "num_virtual_tokens": 4}


class Trained:
    """An adapter of a few steps, its examples, and its task in plain peft."""

    def __init__(self, name, place, folder):
        _, task, make, options = CASES[name]
        self.folder, self.artifact_folder = folder, place / "run" / "artifact"
        self.examples = [make(number) for number in range(9)]
        file = place / "examples.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in self.examples))
        lora = {"rank": 4, "alpha": 16, "target_modules": "all-linear"}
        document = {
            "name": name,
            "backbone": {"name": str(folder), "quantization": "none", "compute_dtype": "float32"},
            "task": {"name": task, "max_length": 32, **options},
            "data": {"train": str(file), "validation": str(file)},
            "adapter": PREFIX if name == "prefix" else lora,
            "optimizer": {"learning_rate": 0.02},
            "train": {"batch_size": 8, "steps": 4},
        }
        result = train(parse_recipe(document), output=place / "run")
        self.artifact = read_artifact(result.artifact)
        self.artifact_folder = result.artifact

    def open(self):
        local = LocalEngine(load_backbone(str(self.folder), PLAIN))
        return local, local.load(self.artifact, name="it")

    def reference(self, task, **options):
        return PeftReference(self.folder, self.artifact_folder, task, **options)


@pytest.fixture(scope="module")
def trained(encoder, decoder, tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            folder = encoder if CASES[name][0] == "encoder" else decoder
            made[name] = Trained(name, tmp_path_factory.mktemp(name), folder)
        return made[name]

    return make


def close_to(wanted):
    """Return a nested prediction whose numbers are compared approximately."""
    if isinstance(wanted, dict):
        return {key: close_to(value) for key, value in wanted.items()}
    if isinstance(wanted, list | tuple):
        return type(wanted)(close_to(value) for value in wanted)
    return pytest.approx(wanted, abs=TOLERANCE) if isinstance(wanted, float) else wanted


def unlabelled(examples):
    answers = ("label", "tags", "answers", "target", "summary", "response")
    return [{k: v for k, v in each.items() if k not in answers} for each in examples]


WRITERS = ["dialogue", "prefix", "translation", "summaries", "free-answers"]
LABELLERS = [name for name in CASES if name not in WRITERS]


@pytest.mark.parametrize("name", LABELLERS)
def test_predictions_and_metrics_are_those_of_peft(trained, name):
    made = trained(name)
    local, loaded = made.open()
    for with_adapter in (True, False):
        peft = made.reference(loaded.task, with_adapter=with_adapter)
        asked = unlabelled(made.examples)
        found = loaded.predict(asked, with_adapter=with_adapter)
        assert found == [close_to(peft.predict(each)) for each in asked]
        scored = score_examples(loaded, made.examples, with_adapter=with_adapter)
        wanted = peft.evaluate(made.examples)
        assert scored.evaluation.metrics == pytest.approx(wanted, abs=TOLERANCE)
    local.close()


@pytest.mark.parametrize("name", WRITERS)
def test_texts_and_metrics_are_those_of_peft(trained, name):
    made = trained(name)
    local, loaded = made.open()
    generation = loaded.task.generation
    conversations = [
        generation.messages(each, at) for at, each in enumerate(unlabelled(made.examples), 1)
    ]
    texts = {}
    for with_adapter in (True, False):
        peft = made.reference(loaded.task)
        if not with_adapter:
            peft.model = peft.model.unload() if name != "prefix" else peft.model.get_base_model()
        with torch.no_grad():
            wanted = [peft.generate(each, 6) for each in conversations]
            metrics = peft.evaluate(made.examples)
        texts[with_adapter] = loaded.generate(
            conversations, max_new_tokens=6, with_adapter=with_adapter
        )
        assert texts[with_adapter] == wanted
        scored = score_examples(loaded, made.examples, with_adapter=with_adapter)
        assert scored.evaluation.metrics == pytest.approx(metrics, abs=TOLERANCE)
    assert texts[True] != texts[False]
    local.close()


def test_images_are_labelled_as_by_peft(tmp_path):
    folder = save_vision(tmp_path / "vision")
    names = ["red", "green", "blue"]
    content = [shape_image(names[number % 3], number) for number in range(12)]
    lines = []
    for number, each in enumerate(content):
        (tmp_path / f"{number}.png").write_bytes(each)
        lines.append(json.dumps({"image": f"{number}.png", "label": names[number % 3]}))
    file = tmp_path / "images.jsonl"
    file.write_text("\n".join(lines))
    document = {
        "name": "colours",
        "backbone": {"name": str(folder), "quantization": "none", "compute_dtype": "float32"},
        "task": {"name": "image-classification"},
        "data": {"train": str(file), "validation": str(file)},
        "optimizer": {"learning_rate": 0.02},
        "train": {"batch_size": 4, "steps": 4},
    }
    result = train(parse_recipe(document), output=tmp_path / "run")
    local = LocalEngine(load_backbone(str(folder), PLAIN))
    loaded = local.load(read_artifact(result.artifact), name="it")
    examples = [{"image": ImageFile(str(at), each)} for at, each in enumerate(content)]
    labelled = [{**each, "label": names[at % 3]} for at, each in enumerate(examples)]
    for with_adapter in (True, False):
        peft = PeftReference(folder, result.artifact, loaded.task, with_adapter=with_adapter)
        found = loaded.predict(examples, with_adapter=with_adapter)
        assert found == [close_to(peft.predict(each)) for each in examples]
        scored = score_examples(loaded, labelled, with_adapter=with_adapter).evaluation
        assert scored.metrics == pytest.approx(peft.evaluate(labelled), abs=TOLERANCE)
    local.close()
