"""Labels and embeddings of mixed batches equal peft alone, on all forward paths."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from backbones.tiny_architectures import DECODERS, backbone_of, tiny_config, tiny_model
from peft import get_peft_model_state_dict
from tiny_models import tiny_model as tiny_model_of
from tiny_models import tiny_model_folder
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.pytorch_utils import Conv1D

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.forward_paths import PADDED_ONLY, forward_paths
from adapterhub.backbones.head_construction import build_head
from adapterhub.data.packing import EncodedExample
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.head_check import HeadCheck
from adapterhub.engine.heads import AdapterHead, HeadBuilder
from adapterhub.engine.pooling import max_length
from adapterhub.specs import LoraSpec, QuantizationSpec

CLASSES = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}
#: Kinds of heads that transformers has no class for.
WITHOUT = {"eurobert": ("span",)}
ARCHITECTURES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "albert",
    "mpnet",
    "distilbert",
    "deberta-v2",
    "modernbert",
    "eurobert",
    "llama",
]
PATHS = {
    "verdict": lambda paths: paths,
    "padded": lambda paths: replace(paths, packed=False),
    "equal lengths": lambda paths: replace(paths, packed=False, padding=False),
    "one adapter": lambda _: PADDED_ONLY,
}
CASES = [(name, path) for name in ARCHITECTURES for path in ("verdict", "padded")]
CASES += [(name, path) for name in ("roberta", "llama") for path in list(PATHS)[2:]]
TOKENIZERS = Path(__file__).parents[1] / "tiny_tokenizers"
LENGTHS = (3, 11, 7, 1, 7)
TOLERANCE = 1e-4


class Labeller:
    """An adapter of random weights on an architecture, and the peft model that has it."""

    def __init__(self, name, head, seed):
        torch.manual_seed(seed)
        labels = ["start", "end"] if head == "span" else [f"l{at}" for at in range(2 + seed % 2)]
        config = tiny_config(name, num_labels=len(labels))
        stock = CLASSES[head].from_config(config).float()
        base = getattr(stock, stock.base_model_prefix)
        base.load_state_dict(base_model_of(tiny_model(name)).state_dict(), strict=False)
        heads = build_head(tiny_backbone(name), head, labels).head_modules
        tensors = {}
        for path in heads:
            for own, value in stock.get_submodule(path).named_parameters():
                value.data.normal_(std=0.4)
                tensors[f"base_model.model.{path}.{own}"] = value.data.clone()
        targets = [
            path
            for path, module in stock.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
            and path.startswith(f"{stock.base_model_prefix}.")
            and not any(path.startswith(each) for each in heads)
        ]
        lora = peft.LoraConfig(
            r=3,
            lora_alpha=6,
            target_modules=targets,
            init_lora_weights=False,
            fan_in_fan_out=name == "gpt2",
        )
        self.model = peft.get_peft_model(stock, lora).eval()
        for own, value in self.model.named_parameters():
            if "lora_" in own:
                value.data.normal_(std=0.2)
        state = get_peft_model_state_dict(self.model)
        tensors |= {key: value.clone() for key, value in state.items()}
        names = tuple(sorted({path.rpartition(".")[2] for path in targets}))
        self.weights = AdapterWeights(LoraSpec(rank=3, alpha=6.0, target_modules=names), tensors)
        self.task = SimpleNamespace(head=head, labels=tuple(labels), name=head, generation=None)

    def logits(self, example, *, base=False):
        ids = torch.tensor([list(example.input_ids)])
        context = self.model.disable_adapter() if base else torch.no_grad()
        with torch.no_grad(), context:
            output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if self.task.head == "span":
            return torch.stack([output.start_logits[0], output.end_logits[0]], -1)[example.select]
        return output.logits if self.task.head == "sequence" else output.logits[0, example.select]


def tiny_backbone(name):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "encoder")
    return backbone_of(tiny_model(name), tokenizer)


def base_model_of(model):
    return model.base_model if model.get_output_embeddings() is not None else model


def example_of(name, head, length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 90, (length,), generator=generator).tolist()
    if head == "sequence":
        return EncodedExample(1, ids, [length - 1 if name in DECODERS else 0])
    return EncodedExample(1, ids, list(range(0, length, 2)))


@cache
def labellers_of(name):
    heads = [head for head in CLASSES if head not in WITHOUT.get(name, ())]
    return {(head, seed): Labeller(name, head, seed) for head in heads for seed in (1, 2)}


@cache
def paths_of(name):
    return forward_paths(tiny_backbone(name))


@pytest.mark.parametrize(("name", "path"), CASES)
def test_heads_of_mixed_adapters_equal_peft_alone(name, path):
    labellers, backbone = labellers_of(name), tiny_backbone(name)
    backbone.verdicts["paths"] = PATHS[path](paths_of(name))
    engine = Engine(backbone, EngineConfig(rank_slots=64))
    for at, labeller in enumerate(labellers.values()):
        engine.load_weights(labeller.weights, key=str(at), name=str(at), task=labeller.task)
    requests = []
    for at, ((head, _), labeller) in enumerate(labellers.items()):
        for seed, length in enumerate(LENGTHS):
            example, base = example_of(name, head, length, seed + at), seed == 1
            request = engine.add_labeling(example, str(at), kind=head, base=base)
            requests.append((request, labeller, example, base))
    while engine.busy:
        engine.step()
    engine.close()
    for request, labeller, example, base in requests:
        (found,) = request.results()
        expected = labeller.logits(example, base=base)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < TOLERANCE, (labeller.task.head, len(example))


def test_a_class_that_reads_the_last_position_is_not_padded():
    # XLNet reads the last position, its own padding included, if that is on the right
    model = tiny_model_of("xlnet")
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "encoder")
    backbone = replace(backbone_of(model.base_model, tokenizer), kind="encoder")
    check, heads = HeadCheck(backbone), HeadBuilder(backbone)
    found = {}
    for head in ("sequence", "token"):
        template = heads.template(head, 2)
        probe = template.probe(AdapterHead(head, ("a", "b"), template.model, template))
        found[head] = check.padding(probe, EncodedExample(1, [5, 6], [0]))
    assert found == {"sequence": False, "token": True}


@pytest.mark.parametrize(("kind", "expected"), [("roberta", 512), ("mpnet", 512), ("bert", 514)])
def test_the_longest_sequence_fits_the_table_of_positions(tmp_path, kind, expected):
    folder = tiny_model_folder(tmp_path, kind, pad_token_id=1)
    backbone = load_backbone(str(folder), QuantizationSpec("none", "float32"))
    assert max_length(backbone) == expected
    ids = torch.full((1, expected), 5)
    with torch.no_grad():
        backbone.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
