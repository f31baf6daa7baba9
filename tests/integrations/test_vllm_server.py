"""vLLM itself with adapters of a registry: texts, aliases that move, and what it refuses."""

import os
import threading
import time

import pytest
import torch
from integrations.vllm_program import PYTHON, running_vllm
from server.http_server_helpers import UNQUANTIZED, random_lora, store
from tiny_configs import WORDED, llama_config
from toy_fixtures import WORDS, save_tokenizer
from transformers import LlamaForCausalLM

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.registry import Registry

pytestmark = [
    pytest.mark.skipif(
        PYTHON not in os.environ, reason=f"{PYTHON} does not name the Python of a vLLM environment"
    ),
    pytest.mark.timeout(900),
]
#: Two best logits closer than this may change places between two implementations in float32.
BOUND = 1e-3
PROMPT = "<s> the film was good the meal was"
TOKENS = 24
#: Seconds between two looks at the registry, and what loading may add on a busy machine.
POLL, LOADING = 0.5, 20.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A decoder with a head size that vLLM's attention has."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    config = llama_config(num_attention_heads=1, num_key_value_heads=1, head_dim=64, **WORDED)
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, encoder=False)
    return folder


@pytest.fixture(scope="module")
def engine(model):
    return Engine(load_backbone(str(model), UNQUANTIZED), EngineConfig(kv_cache_tokens=512))


@pytest.fixture(scope="module")
def registry(model, engine, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home)
    fingerprint = load_backbone(str(model), UNQUANTIZED).fingerprint
    for seed in (1, 2, 3):
        weights = random_lora(seed)
        store(registry, home / str(seed), "team/support", weights, fingerprint)
        engine.load_weights(weights, key=f"v{seed}", name=f"v{seed}")
    registry.set_alias("team/support@1", "prod")
    store(registry, home / "wide", "team/wide", random_lora(4, rank=32), fingerprint)
    store(registry, home / "foreign", "team/foreign", random_lora(5), "sha256:other+none")
    mood = random_lora(6, task="text-classification")
    store(registry, home / "mood", "team/mood", mood, fingerprint, task="text-classification")
    return registry


@pytest.fixture(scope="module")
def vllm(model, registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    home = registry.folder.parent
    with running_vllm(str(model), home, folder, ADAPTERHUB_POLL_SECONDS=str(POLL)) as client:
        yield client


def ask(client, name, prompt=PROMPT, tokens=TOKENS):
    """Return vLLM's tokens, each as its text, and the name of what answered."""
    body = {"model": name, "prompt": prompt, "temperature": 0, "max_tokens": tokens}
    body |= {"ignore_eos": True, "return_token_ids": True, "add_special_tokens": False}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    found = response.json()
    return found["choices"][0]["token_ids"], found["model"]


def expected(engine, adapter, prompt=PROMPT, tokens=TOKENS):
    """Return our tokens up to the first whose two best logits are nearly equal."""
    ids = [WORDS.index(word) for word in prompt.split()]
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=2)
    answer = engine.generate([ids], [adapter], params)[0].outputs[0]
    certain = []
    for token, step in zip(answer.tokens, answer.logprobs, strict=True):
        (_, first), (_, second) = step.best
        if first - second < BOUND:
            break
        certain.append(token)
    return certain


@pytest.mark.parametrize("version", [1, 2, 3])
def test_greedy_texts_are_those_of_our_engine(vllm, engine, registry, version):
    tokens, answered = ask(vllm, f"team/support@{version}")
    ours = expected(engine, f"v{version}")
    assert len(ours) > TOKENS // 2
    assert tokens[: len(ours)] == ours
    assert tokens != ask(vllm, "base")[0]
    assert answered == f"team/support@{registry.resolve(f'team/support@{version}').digest}"


def test_an_unknown_name_is_not_found(vllm):
    for name in ("team/other", "team/support@canary", "no name at all"):
        response = vllm.post("/v1/completions", json={"model": name, "prompt": "the"})
        assert response.status_code == 404


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("team/wide", "has rank 32, and vLLM allows 16. Start vLLM with --max-lora-rank 32"),
        ("team/foreign", "was trained on the backbone with fingerprint sha256:other"),
        ("team/mood", "has a head for text-classification"),
        ("team/support@1*0.5+team/wide*0.5", "is a blend"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(vllm, name, message):
    response = vllm.post("/v1/completions", json={"model": name, "prompt": "the"})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_an_alias_moves_under_load(vllm, engine, registry):
    """Every answer is that of one version, none is wrong, and the new one comes in time."""
    ours = {number: expected(engine, f"v{number}") for number in (1, 2)}
    digests = {registry.resolve(f"team/support@{n}").digest: n for n in (1, 2)}
    answers, failures, done = [], [], threading.Event()

    def load():
        while not done.is_set():
            try:
                tokens, answered = ask(vllm, "team/support@prod")
            except AssertionError as error:
                failures.append(error)
                return
            answers.append((time.monotonic(), tokens, digests[answered.partition("@")[2]]))

    assert ask(vllm, "team/support@prod")[0][: len(ours[1])] == ours[1]
    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(2 * POLL)
    moved = time.monotonic()
    registry.set_alias("team/support@2", "prod")
    while not any(number == 2 for _, _, number in answers):
        assert time.monotonic() - moved < POLL + LOADING, "the alias is not followed"
        time.sleep(0.01)
    took = next(at for at, _, number in answers if number == 2) - moved
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert {number for _, _, number in answers} == {1, 2}
    for _, tokens, number in answers:
        assert tokens[: len(ours[number])] == ours[number]
    # the prefix cache holds the same prompt of the old version
    assert ask(vllm, "team/support@prod")[0][: len(ours[2])] == ours[2]
    print(f"the alias was followed after {took:.2f} s")
