"""Adapters that label, of random weights, and what peft alone makes of a request."""

from dataclasses import dataclass

import peft
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.specs import LoraSpec, PrefixSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

CLASSES = {
    "sequence": (AutoModelForSequenceClassification, "SEQ_CLS", "text-classification"),
    "token": (AutoModelForTokenClassification, "TOKEN_CLS", "token-classification"),
    "span": (AutoModelForQuestionAnswering, "QUESTION_ANS", "question-answering"),
}
LABELS = {
    "sequence": ["glad", "sad", "odd"],
    "token": ["O", "B-THING", "I-THING"],
    "span": ["start", "end"],
}


@dataclass
class Labeller:
    """An adapter with a head, its task, and the peft model that has both."""

    weights: AdapterWeights
    task: object
    model: object

    def logits(self, example):
        """Return ``[selected, classes]`` of one encoded request, alone."""
        ids = torch.tensor([list(example.input_ids)], device=self.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if example.segment_ids:
            segments = torch.tensor([list(example.segment_ids)], device=self.model.device)
            inputs["token_type_ids"] = segments
        with torch.no_grad():
            output = self.model(**inputs)
        if self.task.head == "span":
            ends = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
            return ends[list(example.select)]
        found = output.logits[0]
        return found.unsqueeze(0) if found.dim() == 1 else found[list(example.select)]

    def hidden(self, ids):
        """Return the body's last hidden states ``[tokens, hidden]`` without the prefix."""
        stock = self.model.get_base_model()
        return hidden_of(getattr(stock, stock.base_model_prefix), ids)


def hidden_of(body, ids):
    with torch.no_grad():
        return body(torch.tensor([list(ids)])).last_hidden_state[0]


def base_model_of(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def make_labeller(folder, kind, head, spec, seed, *, max_length=32, reads=None, **settings):
    """Return an adapter for a backbone of a kind, with a head of a kind.

    ``reads`` are settings of its task.
    """
    torch.manual_seed(seed)
    auto, task_type, task = CLASSES[head]
    labels = LABELS[head]
    stock = auto.from_pretrained(folder, dtype=torch.float32, num_labels=len(labels))
    # of a checkpoint of Llama's that class reads no body, since it has another name for it
    setattr(stock, stock.base_model_prefix, body_of(stock, folder))
    if isinstance(spec, PrefixSpec):
        config = peft.PrefixTuningConfig(
            num_virtual_tokens=spec.num_virtual_tokens, task_type=task_type
        )
    else:
        config = peft.LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            target_modules=list(spec.target_modules),
            use_rslora=spec.rslora,
            use_dora=spec.dora,
            init_lora_weights=False,
            task_type=task_type,
            **settings,
        )
    model = peft.get_peft_model(stock, config).eval()
    for name, parameter in model.named_parameters():
        randomize(name, parameter)
    state = peft.get_peft_model_state_dict(model)
    weights = AdapterWeights(spec, {key: tensor.clone() for key, tensor in state.items()})
    options = TaskOptions(max_length=max_length, **(reads or {}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Labeller(weights, build_task(task, tokenizer, kind, labels, options), model)


def body_of(stock, folder):
    body = getattr(stock, stock.base_model_prefix)
    return base_model_of(folder) if stock.base_model_prefix == "transformer" else body


def randomize(name, parameter):
    if "magnitude" in name:
        parameter.data *= 1.0 + 0.5 * torch.rand_like(parameter)
    elif "lora_" in name:
        parameter.data.normal_(std=0.2)
    elif "prompt_encoder" in name:
        parameter.data.normal_()
    elif "modules_to_save" in name:
        parameter.data += 0.3 * torch.randn_like(parameter)


ENCODER_SPECS = {
    "s0": ("sequence", LoraSpec(rank=4, alpha=8.0, target_modules=("query", "value", "dense"))),
    "s1": ("sequence", LoraSpec(rank=9, alpha=4.0, target_modules=("key",), rslora=True)),
    "s2": ("sequence", LoraSpec(rank=2, alpha=2.0, target_modules=("query", "dense"), dora=True)),
    "t0": ("token", LoraSpec(rank=8, alpha=8.0, target_modules=("query", "value"))),
    "t1": (
        "token",
        LoraSpec(
            rank=3,
            alpha=3.0,
            target_modules=("query", "word_embeddings", "position_embeddings"),
        ),
    ),
}
DECODER_SPECS = {
    "s0": ("sequence", LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj", "down_proj"))),
    "s1": ("sequence", LoraSpec(rank=2, alpha=2.0, target_modules=("v_proj",), dora=True)),
    "s2": ("sequence", LoraSpec(rank=3, alpha=3.0, target_modules=("q_proj", "embed_tokens"))),
    "s3": ("sequence", PrefixSpec(num_virtual_tokens=5)),
    "t0": ("token", LoraSpec(rank=8, alpha=8.0, target_modules=("q_proj", "o_proj"))),
    "t1": ("token", PrefixSpec(num_virtual_tokens=3)),
}


def make_labellers(folder, kind):
    specs = ENCODER_SPECS if kind == "encoder" else DECODER_SPECS
    return {
        name: make_labeller(folder, kind, head, spec, seed)
        for seed, (name, (head, spec)) in enumerate(specs.items())
    }
