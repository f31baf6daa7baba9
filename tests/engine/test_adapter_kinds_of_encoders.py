"""Every kind of adapter of an encoder gives the logits of peft, alone and in mixed batches."""

import peft
import pytest
import torch
from kind_helpers import PLAIN, SMALL, read_adapter, save_adapter
from pooling_helpers import CLASSES, LABELS
from tiny_configs import bert_config
from toy_fixtures import save_tokenizer
from transformers import AutoTokenizer, BertModel

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

TEXTS = ["the film was good", "the meal was awful the song was fine the day"]


def lora(task_type, **settings):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **settings}
    return peft.LoraConfig(task_type=task_type, init_lora_weights=False, **settings)


def kinds_of(task_type):
    head = ["classifier"]
    return {
        "plain": lora(task_type),
        "pattern": lora(task_type, rank_pattern={"query": 9}, alpha_pattern={"value": 3}),
        "lora_bias": lora(task_type, lora_bias=True),
        "bias_all": lora(task_type, bias="all"),
        "bias_lora_only": lora(task_type, bias="lora_only"),
        "embeddings": lora(
            task_type, target_modules=["query", "word_embeddings", "position_embeddings"]
        ),
        "tokens": lora(task_type, trainable_token_indices={"word_embeddings": [6, 8, 12]}),
        "saved_embeddings": lora(
            task_type, modules_to_save=[*head, "word_embeddings", "token_type_embeddings"]
        ),
        "saved_norms": lora(task_type, modules_to_save=[*head, "LayerNorm"]),
        "saved_layers": lora(task_type, modules_to_save=[*head, "intermediate", "output"]),
        "dora": lora(task_type, use_dora=True, target_modules=["query", "word_embeddings"]),
        "ia3": peft.IA3Config(
            task_type=task_type,
            target_modules=["key", "value", "output.dense"],
            feedforward_modules=["output.dense"],
        ),
        "prompt": peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=4),
        "p_tuning": peft.PromptEncoderConfig(
            task_type=task_type, num_virtual_tokens=3, encoder_hidden_size=16
        ),
    }


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_bert(tmp_path, head):
    torch.manual_seed(0)
    config = bert_config(vocab_size=64, max_position_embeddings=64, initializer_range=0.1)
    BertModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=True)
    auto, task_type, name = CLASSES[head]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    task = build_task(name, tokenizer, "encoder", LABELS[head], TaskOptions(max_length=32))
    engine = Engine(load_backbone(str(tmp_path), PLAIN), SMALL)
    models, kinds = {}, kinds_of(task_type)
    for seed, (kind, config) in enumerate(kinds.items()):
        stock = auto.from_pretrained(tmp_path, dtype=torch.float32, num_labels=len(LABELS[head]))
        save_adapter(tmp_path / kind, stock, config, seed)
        stock = auto.from_pretrained(tmp_path, dtype=torch.float32, num_labels=len(LABELS[head]))
        models[kind] = peft.PeftModel.from_pretrained(stock, tmp_path / kind).eval()
        weights = read_adapter(tmp_path / kind)
        engine.load_weights(weights, key=kind, name=kind, task=task)
    requests = [(kind, engine.add_labeling(TEXTS[0], kind, kind=head)) for kind in kinds]
    run(engine)
    requests += [
        (kind, engine.add_labeling(text, kind, kind=head)) for text in TEXTS for kind in kinds
    ]
    run(engine)
    engine.close()
    for kind, request in requests:
        for each, found in zip(request.sequences, request.results(), strict=True):
            wanted = logits(models[kind], each.example, head)
            assert (found - wanted).abs().max() <= 1e-4, kind


def run(engine):
    while engine.busy:
        engine.step()


def logits(model, example, head):
    ids = torch.tensor([list(example.input_ids)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        found = model(**inputs).logits
    if head == "sequence":
        return found
    # peft's model of a prompt returns the virtual tokens too
    return found[0, found.shape[1] - ids.shape[1] :][list(example.select)]
