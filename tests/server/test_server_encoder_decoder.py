"""An encoder-decoder translates: train, plain peft, predict, evaluate and serve."""

import json

import pytest
import torch
from http_server_helpers import running_server
from peft import PeftModel
from tiny_models import tiny_model_folder
from toy_fixtures import write_recipe
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from adapterhub.registry import Registry

PAIRS = {"the river": "a man", "spring": "home", "old": "wide", "home is old": "a man sang"}
TEXTS = list(PAIRS)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models"), "t5")


@pytest.fixture
def trained(command, t5, tmp_path):
    """Two adapters on one backbone, which translate forth and back."""
    found = {}
    for seed, name in enumerate(("forth", "back")):
        data = tmp_path / f"{name}.jsonl"
        pairs = PAIRS.items() if name == "forth" else [(b, a) for a, b in PAIRS.items()]
        lines = [json.dumps({"source": a, "target": b}) + "\n" for a, b in pairs]
        data.write_text("".join(lines * 4))
        path = write_recipe(
            tmp_path,
            name,
            t5,
            "translation",
            data,
            backbone={"name": str(t5), "quantization": "none", "compute_dtype": "float32"},
            adapter={"rank": 8, "alpha": 32},
            optimizer={"learning_rate": 0.01},
            train={"batch_size": 8, "epochs": 20, "seed": seed},
        )
        result = command("train", str(path), "--json")
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout) | {"data": str(data)}
    return found


def by_peft(t5, artifact, text, count=64, **options):
    """Return what plain peft writes for a text."""
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(t5), artifact).eval()
    tokenizer = AutoTokenizer.from_pretrained(t5)
    start = torch.tensor([[tokenizer.pad_token_id, tokenizer.cls_token_id]])
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = model.generate(
            **inputs, decoder_input_ids=start, max_new_tokens=count, do_sample=False, **options
        )
    return tokenizer.decode(found[0], skip_special_tokens=True).strip()


def test_what_is_trained_is_predicted_evaluated_and_served(command, trained, t5, own_home):
    for report in trained.values():
        assert report["metrics"]["after"]["loss"] < report["metrics"]["before"]["loss"] / 3
    config = json.loads(
        (Registry().materialize(Registry().resolve("forth")) / "adapter_config.json").read_text()
    )
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    card = (Registry().materialize(Registry().resolve("forth")) / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card

    wanted = {
        name: [by_peft(t5, report["artifact"], text) for text in TEXTS]
        for name, report in trained.items()
    }
    assert wanted["forth"] != wanted["back"]
    assert wanted["forth"][:2] == ["a man", "home"]
    printed = command("predict", "forth", *TEXTS, "--json")
    assert [each["answer"] for each in json.loads(printed.stdout)] == wanted["forth"]

    data = trained["forth"]["data"]
    scored = command("eval", "forth", "--data", data, "--generate", "4", "--json")
    assert scored.exit_code == 0, scored.output
    report = json.loads(scored.stdout)
    assert report["adapter"]["chrf"] > 2 * report["base"]["chrf"]

    with running_server(t5, Registry()) as served:
        items = [{"model": name, "input": text} for name in wanted for text in TEXTS]
        answers = served.post("/v1/generate", {"items": items}).json()["data"]
        assert [each["text"] for each in answers] == [*wanted["forth"], *wanted["back"]]

        create = served.client.completions.create
        options = {"model": "forth", "temperature": 0, "max_tokens": 6}
        streamed = create(prompt=TEXTS[3], stream=True, **options)
        assert "".join(c.choices[0].text for c in streamed).strip() == wanted["forth"][3]
        beams = create(prompt=TEXTS[0], extra_body={"num_beams": 3}, **options)
        expected = by_peft(t5, trained["forth"]["artifact"], TEXTS[0], 6, num_beams=3)
        assert beams.choices[0].text.strip() == expected
        refused = served.post(
            "/v1/chat/completions",
            {"model": "forth", "messages": [{"role": "user", "content": "the river"}]},
        )
        assert refused.status_code == 400
        assert "no chat template" in refused.json()["error"]["message"]
