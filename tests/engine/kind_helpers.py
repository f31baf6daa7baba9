"""Adapters of any kind of peft, stored in a folder, and peft's model of them."""

import peft
import torch
from engine_helpers import greedy_params
from peft.utils import load_peft_weights
from toy_fixtures import save_tokenizer
from transformers import AutoModelForCausalLM

from adapterhub.adapters.peft_format import config_document, spec_of, with_explicit_targets
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.engine.config import EngineConfig
from adapterhub.specs import QuantizationSpec

PLAIN = QuantizationSpec("none", "float32")
SMALL = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=32, kv_cache_tokens=600, block_size=4, rank_slots=64
)
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
