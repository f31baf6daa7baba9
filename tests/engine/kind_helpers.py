"""Adapters of any kind of peft, stored in a folder, and peft's model of them."""

import peft
import torch
from engine_helpers import greedy_params
from peft.utils import load_peft_weights
from toy_fixtures import save_tokenizer
from transformers import AutoModelForCausalLM

from adapterhub.adapters.explicit_targets import with_explicit_targets
from adapterhub.adapters.peft_format import config_document, spec_of
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=32, kv_cache_tokens=600, block_size=4, rank_slots=64
)
#: Tokens from which aLoRA is active.
INVOCATION = [17, 18]
WORDED = {"vocab_size": 64, "initializer_range": 0.2, "bos_token_id": 4, "eos_token_id": 5}
ATTENTION = ["q_proj", "v_proj", "o_proj"]


def lora(**settings):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, **settings}
    return peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)


def save_decoder(folder, config):
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    save_tokenizer(folder, encoder=False)


def save_adapter(folder, model, config, seed):
    """Store an adapter of random weights for a model as peft does."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and "prompt_encoder" not in name:
            change(name, parameter)
    adapted.save_pretrained(folder)


def change(name, parameter):
    """Change a trained parameter so much that the output depends on it."""
    if "magnitude" in name or "ia3_l" in name:
        parameter.data *= 1.0 + 0.8 * torch.rand_like(parameter)
    elif "lora_" in name:
        parameter.data.normal_(std=0.3)
    else:
        parameter.data += 0.3 * torch.randn_like(parameter)


def read_adapter(folder):
    """Return the weights of a stored adapter as the engine takes them."""
    config = config_document(peft.PeftConfig.from_pretrained(folder))
    tensors = load_peft_weights(folder, device="cpu")
    return AdapterWeights(spec_of(with_explicit_targets(config, tensors)), tensors)


def peft_decoder(backbone, folder, vocab_size=None):
    """Return peft's model of a stored adapter on a decoder."""
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    if vocab_size is not None:
        base.resize_token_embeddings(vocab_size)
    if folder is None:
        return base.eval()
    return peft.PeftModel.from_pretrained(base, folder).eval()


def generate(engine, requests, count):
    """Generate greedily; return the tokens and log-probabilities of each request."""
    completions = engine.generate(
        [prompt for prompt, _ in requests],
        [name for _, name in requests],
        [greedy_params(count, logprobs=1)] * len(requests),
    )
    answers = [each.outputs[0] for each in completions]
    for answer in answers:
        assert answer.error is None, answer.error
    return [
        (list(answer.tokens), torch.tensor([each.chosen for each in answer.logprobs]))
        for answer in answers
    ]


def assert_equal(model, prompt, answer, tolerance=1e-4):
    """Require tokens and log-probabilities of a model that computes one sequence alone."""
    tokens, found = answer
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=len(tokens),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.cat(output.logits).float()
    expected = output.sequences[0, -len(tokens) :].tolist()
    wanted = torch.log_softmax(logits, -1).amax(-1)
    assert tokens == expected
    assert (found - wanted).abs().max() <= tolerance, (found, wanted)


def prompts(count):
    """Return prompts with the invocation tokens of aLoRA in most of them, once twice."""
    found = [[6 + (i * 7 + j * j) % 50 for j in range(9 + 3 * i)] for i in range(count)]
    for index, prompt in enumerate(found[1:]):
        prompt[4:6] = INVOCATION
        if index % 2:
            prompt[7:9] = INVOCATION
    return found


def check(folder, kinds, *, changes=1e-3):
    """Require of every adapter, alone and in one batch with all others, what peft gives."""
    for seed, (name, config) in enumerate(kinds.items()):
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        save_adapter(folder / name, base, config, seed)
    models = {name: peft_decoder(folder, folder / name) for name in kinds}
    models[None] = peft_decoder(folder, None)
    engine = Engine(load_backbone(str(folder), PLAIN), SMALL)
    for name in kinds:
        engine.load_weights(read_adapter(folder / name), key=name, name=name)
    asked = prompts(3)
    for name in kinds:
        (alone,) = generate(engine, [(asked[1], name)], 5)
        assert_equal(models[name], asked[1], alone)
        base = log_probabilities(models[None], asked[1])
        assert (log_probabilities(models[name], asked[1]) - base).abs().max() > changes, name
    requests = [(asked[i % 3], name) for i, name in enumerate([None, *kinds, *kinds, None])]
    for (prompt, name), answer in zip(requests, generate(engine, requests, 5), strict=True):
        assert_equal(models[name], prompt, answer)
    engine.close()


def log_probabilities(model, prompt):
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt))
        ).logits
    return torch.log_softmax(logits[0, -1].float(), -1)
