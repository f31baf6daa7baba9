"""``generation_config.json`` of an encoder-decoder: answers are those of transformers' defaults."""

import json
import logging
import shutil

import pytest
import torch
from tiny_models import tiny_model_folder
from transformers import AutoModelForSeq2SeqLM

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.generation_defaults import generation_defaults
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SIZES = EngineConfig(max_num_seqs=4, kv_cache_tokens=1024, block_size=8, rank_slots=8)
SOURCES = [[101, *range(210, 210 + 7 * count, 7), 102] for count in (9, 4)]
LONGEST = 14


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("models"), "bart")


def configured(bart, folder, **settings):
    """Return a copy of a checkpoint with settings of its own."""
    copied = shutil.copytree(bart, folder / "bart")
    path = copied / "generation_config.json"
    # BART's decoder begins with the end of text, then the begin of text is forced
    document = {**json.loads(path.read_text()), "forced_bos_token_id": 101, **settings}
    path.write_text(json.dumps(document))
    return copied


def by_transformers(folder, source):
    """Return the answer of ``generate`` without arguments, from its second token to its end."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([source])
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0, 2:].tolist()
    end = model.generation_config.eos_token_id
    return found[: found.index(end)] if end in found else found


def answers(folder, **settings):
    engine = Engine(load_backbone(str(folder), PLAIN), SIZES)
    try:
        longest = engine.prompt_processor.defaults.max_tokens
        params = SamplingParams(temperature=0, max_tokens=longest, **settings)
        outputs = engine.generate(SOURCES, [None] * len(SOURCES), params)
    finally:
        engine.close()
    assert [each.error for each in outputs] == [None] * len(SOURCES)
    return [list(each.tokens) for each in outputs]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1, "min_length": 12},
        {"encoder_no_repeat_ngram_size": 1, "repetition_penalty": 1.7, "forced_eos_token_id": 102},
    ],
    ids=lambda found: "+".join(found) or "plain",
)
def test_answers_are_those_of_transformers_defaults(bart, tmp_path, beams, settings):
    settings = {"max_length": LONGEST, "num_beams": beams, **settings}
    folder = configured(bart, tmp_path, **settings)
    assert answers(folder) == [by_transformers(folder, source) for source in SOURCES]


@pytest.mark.parametrize("beams", [1, 2])
def test_suppressed_tokens_are_those_of_transformers(bart, tmp_path, beams):
    free = answers(configured(bart, tmp_path / "free", max_length=LONGEST, num_beams=beams))
    first, second = free[0][0], free[1][0]
    rules = {"begin_suppress_tokens": [first], "suppress_tokens": [second]}
    rules |= {"bad_words_ids": [[free[0][1]]], "length_penalty": -2.0, "early_stopping": True}
    folder = configured(bart, tmp_path / "ruled", max_length=LONGEST, num_beams=beams, **rules)
    found = answers(folder)
    assert found == [by_transformers(folder, source) for source in SOURCES]
    assert all(one != other for one, other in zip(found, free, strict=True))


def test_a_request_has_its_own_beams_and_penalty(bart, tmp_path):
    folder = configured(bart, tmp_path / "beams", max_length=LONGEST, num_beams=3)
    greedy = configured(bart, tmp_path / "greedy", max_length=LONGEST)
    assert answers(folder, num_beams=1) == answers(greedy)
    # a search has no log-probabilities, so the checkpoint's beams are not taken
    assert answers(folder, logprobs=1) == answers(greedy)
    penalized = configured(bart, tmp_path / "penalty", max_length=LONGEST, repetition_penalty=9.0)
    assert answers(penalized, repetition_penalty=1.3) == answers(greedy, repetition_penalty=1.3)


def test_settings_that_are_not_used_are_logged(bart, tmp_path, caplog):
    folder = configured(bart, tmp_path, do_sample=True, top_k=7, max_length=LONGEST)
    with caplog.at_level(logging.INFO, "adapterhub"):
        answers(folder)
    assert "generation_config.json do_sample, top_k are not used" in caplog.text


def test_the_longest_answer_counts_what_the_decoder_reads_before_it(bart, tmp_path):
    backbone = load_backbone(str(configured(bart, tmp_path, max_length=LONGEST)), PLAIN)
    assert generation_defaults(backbone).max_tokens == LONGEST - 2
