"""The backbones of the catalog, from the package index."""

import pytest
import torch

from adapterhub.backbones import forward_paths
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.catalog import load_catalog
from adapterhub.backbones.fast_decoder import FastDecoder
from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.sources import cached_backbone, fetch_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.core import EngineCore
from adapterhub.specs import QuantizationSpec

pytestmark = pytest.mark.weights

#: Digits are split, then GPT-2's pattern: white space before a digit is one token.
SMOLLM2_IDS = {
    "Hello world 12345": [19556, 905, 216, 33, 34, 35, 36, 37],
    "don't\n\n1.": [12420, 982, 1116, 33, 30],
    "a  1": [81, 256, 33],
}
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm2():
    return load_backbone("smollm2-135m-instruct", device="cpu")


def test_smollm2_has_the_documented_properties(smollm2):
    assert smollm2.kind == "decoder"
    assert smollm2.parameters == 134_515_008
    assert smollm2.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert smollm2.config.rope_parameters["rope_theta"] == 100_000
    assert smollm2.fingerprint.endswith("+nf4")


def test_nf4_takes_less_than_half_of_the_memory(smollm2):
    width = torch_dtype(smollm2.quantization.compute_dtype).itemsize
    assert smollm2.memory_bytes < 0.45 * width * smollm2.parameters


def test_smollm2_takes_every_fast_path_as_the_engine_packs_it(smollm2, monkeypatch):
    monkeypatch.setattr(forward_paths, "read_verdict", lambda *_: None)
    smollm2.verdicts.clear()
    core = EngineCore(smollm2, EngineConfig(kv_cache_tokens=64, rank_slots=8))
    try:
        assert not core.backbone.verdicts["paths"].reasons
        assert isinstance(core.model_runner.fast, FastDecoder)
    finally:
        core.close()


def test_smollm2_tokenizer_splits_digits(smollm2):
    tokenizer = smollm2.tokenizer
    assert {text: tokenizer(text)["input_ids"] for text in SMOLLM2_IDS} == SMOLLM2_IDS


def test_smollm2_special_tokens(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [
        0,
        1,
        2,
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer("<|im_start|>user\nhi<|im_end|>\n")["input_ids"] == [
        1,
        4093,
        198,
        6004,
        2,
        198,
    ]


@pytest.mark.parametrize("text", ["a  b\n\n\n 1 22  333\t4", "é 漢字 🤗 ½", "<|im_end|> x", " "])
def test_smollm2_tokenizer_round_trips(smollm2, text):
    ids = smollm2.tokenizer(text)["input_ids"]
    assert smollm2.tokenizer.decode(ids) == text


def test_smollm2_chat_template(smollm2):
    text = smollm2.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_smollm2_answers_and_does_not_change(smollm2):
    before = state_digest(smollm2.base_model)
    prompt = smollm2.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = smollm2.tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(6):
            last = smollm2.base_model(torch.tensor([ids])).last_hidden_state[:, -1]
            ids.append(int(smollm2.lm_head(last).argmax()))
    assert smollm2.tokenizer.decode(ids[start:]) == "The capital of France is Paris"
    assert state_digest(smollm2.base_model) == before


def cached(name):
    """Skip a test of a backbone that is large and not in the cache."""
    if cached_backbone(name) is None:
        pytest.skip(f"run `adapterhub backbones fetch {name}` first")
    return name


@pytest.mark.parametrize(
    ("name", "parameters"), [("minilm-l6", 22_713_216), ("mpnet-base", 109_486_464)]
)
def test_an_encoder_finds_the_nearer_sentence(name, parameters):
    backbone = load_backbone(cached(name), QuantizationSpec("nf4", "float32"), device="cpu")
    texts = ["My printer does not print", "The printer is out of order", "We sail at dawn"]
    batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = backbone.base_model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    printer, sail = mean[1:] @ mean[0]
    assert printer > 0.6 > 0.3 > sail
    assert (backbone.kind, backbone.missing) == ("encoder", ())
    assert backbone.parameters == parameters


def test_qwen_answers_in_chinese():
    name = cached("qwen2.5-coder-0.5b-instruct")
    qwen = load_backbone(name, QuantizationSpec("none", "bfloat16"), device="cpu")
    chat = [{"role": "user", "content": "法国的首都是哪里？只回答城市名。"}]
    prompt = qwen.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = qwen.tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(2):
            last = qwen.base_model(torch.tensor([ids])).last_hidden_state[:, -1]
            ids.append(int(qwen.lm_head(last).argmax()))
    assert qwen.tokenizer.decode(ids[start:]).startswith("巴黎")


@pytest.mark.parametrize(
    "name", ["smollm2-135m-instruct", "minilm-l6", "mpnet-base", "qwen2.5-coder-0.5b-instruct"]
)
def test_prepared_tokenizers_pass_their_check(name):
    from adapterhub.backbones.sources import _check_probe

    _check_probe(load_catalog()[name], fetch_backbone(cached(name)))
