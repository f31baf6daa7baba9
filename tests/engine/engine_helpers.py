"""Adapters of random weights on a tiny decoder, and what peft alone makes of a request."""

from dataclasses import dataclass

import peft
import torch
from transformers import AutoModelForCausalLM

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import LoraSpec, PrefixSpec

#: Difference of logits in float32 within which an order is no promise.
TIE = 1e-4
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Peer:
    """An adapter, and the peft model that has it."""

    weights: AdapterWeights
    model: object

    def greedy(self, prompt, count):
        return greedy(self.model, prompt, count)


def greedy_params(count, **settings):
    """Return settings of a greedy answer of exactly so many tokens."""
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, **settings)


def greedy(model, prompt, count):
    """Generate greedily, one sequence alone, and return tokens and the logits of each step."""
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([prompt], device=model.device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.sequences[0, len(prompt) :].tolist(), torch.cat(output.logits)


def assert_greedy(model, prompt, answer):
    """Require the token that a model, one sequence alone, takes after the prompt and those before.

    Where its two best logits are as good as equal, it may be either. One pass over all tokens
    takes a fraction of the time of generating them again.
    """
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    for found, scores in zip(answer, logits[0, -len(answer) :], strict=True):
        assert scores[found] >= scores.max() - TIE, (prompt, answer)


def make_peer(folder, spec, seed, *, dtype=torch.float32, **settings):
    """Return an adapter that changes the output a lot, and peft's model of it.

    ``settings`` are further ones of peft's configuration.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if isinstance(spec, PrefixSpec):
        config = peft.PrefixTuningConfig(
            num_virtual_tokens=spec.num_virtual_tokens, task_type="CAUSAL_LM"
        )
        return _peer(spec, peft.get_peft_model(model, config))
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.target_modules),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **settings,
    )
    return _peer(spec, peft.get_peft_model(model, config))


def _peer(spec, adapted):
    adapted.eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            if "magnitude" in name:
                parameter.data *= 1.0 + 0.5 * torch.rand_like(parameter)
            else:
                parameter.data.normal_(std=0.3)
        elif "prompt_encoder" in name:
            parameter.data.normal_()
    state = peft.get_peft_model_state_dict(adapted)
    return Peer(AdapterWeights(spec, {k: v.clone() for k, v in state.items()}), adapted)


def some_specs():
    return [
        LoraSpec(rank=4, alpha=8.0, target_modules=LINEARS),
        LoraSpec(rank=16, alpha=4.0, target_modules=("q_proj", "v_proj"), rslora=True),
        LoraSpec(rank=1, alpha=1.0, target_modules=("down_proj",)),
        LoraSpec(rank=8, alpha=16.0, target_modules=LINEARS),
        PrefixSpec(num_virtual_tokens=6),
        PrefixSpec(num_virtual_tokens=4),
        LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj", "up_proj", "o_proj"), dora=True),
    ]
