"""The model card: metadata that the Hub's own parser reads, and a snippet that runs."""

import re
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from tiny_configs import llama_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, DataSource, Manifest, Metrics
from adapterhub.adapters.model_card import render_card
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec

GOLDEN = Path(__file__).parent / "golden" / "card.md"

CLASSIFIER = Manifest(
    task="text-classification",
    labels=("fruit", "root | leaf"),
    backbone=BackboneRef(
        name="tiny", fingerprint="sha256:ab", hub_id="someone/tiny", revision="v1"
    ),
    quantization=QuantizationSpec("nf4", "bfloat16"),
    adapter=LoraSpec(rank=4, target_modules=("q_proj",)),
    trained_parameters=1234,
    backbone_parameters=98765,
    recipe={"task": "text-classification", "optimizer": {"learning_rate": 0.001}, "seed": 7},
    data={
        "train": DataSource(
            fingerprint="sha256:11", num_examples=1200, origin="hub:someone/plants"
        ),
        "validation": DataSource(
            fingerprint="sha256:22", num_examples=40, origin="hub:someone/plants"
        ),
    },
    metrics=Metrics(
        before={"accuracy": 0.5, "macro_f1": 1 / 3}, after={"accuracy": 0.975, "macro_f1": 0.97}
    ),
    seed=7,
    libraries={"torch": "2.13.0", "peft": "0.21.2"},
)
DIALOGUE = replace(
    CLASSIFIER,
    task="dialogue",
    labels=(),
    adapter=PrefixSpec(8),
    data={"train": DataSource(fingerprint="sha256:11", num_examples=3, origin="support.jsonl")},
    metrics=Metrics(),
)


TAGGER = replace(CLASSIFIER, task="token-classification", labels=("O", "B-PER"))
MULTI_LABEL = replace(CLASSIFIER, recipe={"task": {"multi_label": True, "threshold": 0.4}})


def card(manifest=CLASSIFIER, **options):
    return render_card(manifest, **({"name": "plants", "plot": "loss.svg"} | options))


def test_card_stays_as_it_is():
    assert card(license="apache-2.0") == GOLDEN.read_text(encoding="utf-8")


def test_metadata_reads_back_by_the_hubs_parser():
    data = ModelCard(card(license="apache-2.0")).data
    assert data.base_model == "someone/tiny"
    assert data.base_model_relation == "adapter"
    assert data.library_name == "peft"
    assert data.pipeline_tag == "text-classification"
    assert data.license is None
    assert "The backbone has the license `apache-2.0`" in card(license="apache-2.0")
    assert data.datasets == ["someone/plants"]
    assert data.tags == ["adapterhub", "lora", "text-classification"]
    assert data.model_name == "plants"
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == 0.975
    assert results["macro_f1"].metric_value == 0.97
    assert results["accuracy"].dataset_type == "someone/plants"
    assert results["accuracy"].dataset_split == "validation"


def test_what_is_unknown_is_left_out_of_the_metadata():
    nameless = replace(DIALOGUE, backbone=BackboneRef(name="mine", fingerprint="f"))
    text = card(nameless, plot=None)
    data = ModelCard(text).data.to_dict()
    assert data == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["adapterhub", "prefix", "dialogue"],
    }
    assert "The license of the backbone was not recorded" in text
    assert "No metric was recorded" in text
    assert "![" not in text
    assert "## Labels" not in text


def test_metric_that_was_not_measured_before_says_so():
    manifest = replace(CLASSIFIER, metrics=Metrics(after={"bleu": 12.34567}))
    assert "| bleu | not measured | 12.35 |" in card(manifest)


def test_local_data_is_not_named_as_a_data_set_of_the_hub():
    source = DataSource(fingerprint="f", num_examples=4, origin="dev.jsonl")
    data = ModelCard(card(replace(CLASSIFIER, data={"validation": source}))).data
    assert data.get("datasets") is None
    assert data.eval_results[0].dataset_type == "local"
    assert data.eval_results[0].dataset_name == "dev.jsonl"


def test_recipe_block_is_the_recipe():
    block = re.search(r"```yaml\n(.*?)\n```", card(), re.DOTALL)
    assert yaml.safe_load(block[1]) == CLASSIFIER.recipe


def test_text_of_others_cannot_break_the_card():
    hostile = replace(
        CLASSIFIER,
        labels=("---\nlicense: mit", "a | b", "<script>", "![x](y)"),
        recipe={"system_prompt": "```\n# not a heading\n```"},
        metrics=Metrics(after={"x: |\n  y": 1.0}),
    )
    text = card(hostile)
    data = ModelCard(text).data
    assert data.get("license") is None
    assert data.eval_results[0].metric_type == "x: |\n  y"
    assert "\n# not a heading" not in text
    block = re.search(r"````yaml\n(.*?)\n````", text, re.DOTALL)
    assert yaml.safe_load(block[1]) == hostile.recipe
    listed = text.split("## Labels")[1].split("## How")[0]
    assert "<script>" not in listed.replace("\\<script\\>", "")
    assert r"a \| b" in listed


def test_card_is_of_the_manifest_and_not_of_its_order():
    turned = replace(
        CLASSIFIER,
        data=dict(reversed(CLASSIFIER.data.items())),
        recipe=dict(reversed(CLASSIFIER.recipe.items())),
        libraries=dict(reversed(CLASSIFIER.libraries.items())),
        metrics=Metrics(
            before=dict(reversed(CLASSIFIER.metrics.before.items())),
            after=dict(reversed(CLASSIFIER.metrics.after.items())),
        ),
    )
    assert card(turned) == card()
    assert card(Manifest.from_json(CLASSIFIER.to_json())) == card()


@pytest.mark.parametrize(
    ("scheme", "shown"),
    [
        ("nf4", 'bnb_4bit_quant_type="nf4"'),
        ("fp4", 'bnb_4bit_quant_type="fp4"'),
        ("int8", "llm_int8_threshold=0.0"),
        ("none", "dtype=torch.bfloat16"),
    ],
)
@pytest.mark.parametrize(
    "manifest",
    [CLASSIFIER, DIALOGUE, TAGGER, MULTI_LABEL],
    ids=["classifier", "dialogue", "tagger", "multi-label"],
)
def test_snippet_is_python_and_names_the_quantization(manifest, scheme, shown):
    snippet = snippet_of(replace(manifest, quantization=QuantizationSpec(scheme)))
    compile(snippet, "card", "exec")
    assert shown in snippet
    assert ("BitsAndBytesConfig" in snippet) == (scheme != "none")


def snippet_of(manifest):
    return re.search(r"```python\n(.*?)\n```", card(manifest), re.DOTALL)[1]


def test_snippets_of_tags_and_of_several_labels_print_their_names():
    assert "print(token, model.config.id2label[int(each.argmax())])" in snippet_of(TAGGER)
    assert "if score >= 0.4])" in snippet_of(MULTI_LABEL)


def test_a_backbone_without_a_hub_id_is_to_be_filled_in():
    local = replace(CLASSIFIER, backbone=BackboneRef(name="sha256:ab+nf4", fingerprint="sha256:ab"))
    assert "name = 'path/to/backbone'  # put the folder" in snippet_of(local)


def save_backbone(folder, model_class):
    words = ["<pad>", "<unk>", "<eos>", "Put", "your", "text", "question", "here", ".", "user"]
    tokenizer = Tokenizer(
        WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}"
    fast.save_pretrained(folder)
    config = llama_config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=len(words),
        num_labels=2,
        pad_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = model_class(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("manifest", "task_type", "model_class"),
    [
        (CLASSIFIER, "SEQ_CLS", LlamaForSequenceClassification),
        (replace(DIALOGUE, adapter=CLASSIFIER.adapter), "CAUSAL_LM", LlamaForCausalLM),
        (DIALOGUE, "CAUSAL_LM", LlamaForCausalLM),
    ],
    ids=["classifier", "dialogue-lora", "dialogue-prefix"],
)
def test_snippet_runs_in_the_artifact(
    tmp_path, monkeypatch, capsys, manifest, task_type, model_class
):
    model = save_backbone(tmp_path / "backbone", model_class)
    backbone = BackboneRef(name="tiny", fingerprint="f", hub_id=str(tmp_path / "backbone"))
    manifest = replace(manifest, backbone=backbone, quantization=QuantizationSpec("none"))
    config = peft_config(
        manifest.adapter,
        task_type=task_type,
        base_model=backbone.hub_id,
        target_modules=("q_proj",),
        modules_to_save=None,
        revision=None,
    )
    adapted = peft.get_peft_model(model, config)
    write_artifact(
        tmp_path / "adapter",
        tensors=peft.get_peft_model_state_dict(adapted, save_embedding_layers=False),
        adapter_config=config_document(adapted.peft_config["default"]),
        manifest=manifest,
        card=card(manifest),
    )
    monkeypatch.chdir(tmp_path / "adapter")
    scope = {}
    exec(compile(snippet_of(manifest), "card", "exec"), scope)
    printed = capsys.readouterr().out
    if manifest.labels:
        assert printed.startswith(manifest.labels)
        # the labels are those of any program that reads the configuration
        pipe = pipeline("text-classification", model=scope["model"], tokenizer=scope["tokenizer"])
        assert pipe("Put your text here.")[0]["label"] in manifest.labels
    else:
        assert printed.strip()


@pytest.mark.parametrize(
    ("manifest", "continues", "before"),
    [
        (CLASSIFIER, False, "backbone with an untrained head"),
        (replace(DIALOGUE, metrics=CLASSIFIER.metrics), False, "backbone without adapter"),
        (CLASSIFIER, True, "the adapter that it continues"),
    ],
)
def test_metrics_before_say_what_they_are_of(manifest, continues, before):
    assert f"| metric | before ({before}) | with adapter |" in card(manifest, continues=continues)
