"""Adapters of every kind that peft can make, on tiny backbones, and what becomes of each."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import config as lora_config
from tiny_configs import WORDED, bert_config, llama_config
from toy_fixtures import save_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.specs import QuantizationSpec

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MOE = {
    **SHAPE,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
BACKBONES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(llama_config(**WORDED)),
    "llama-tied": lambda: LlamaForCausalLM(llama_config(**WORDED, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, **WORDED)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**MOE, **WORDED)),
    "bert": lambda: BertModel(bert_config(vocab_size=64, max_position_embeddings=64)),
}
CLASSES = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
}
IDS = torch.tensor([[6, 9, 2, 33, 11, 8, 40, 7]])
#: Tokens of IDS from which an activated adapter is used.
INVOCATION = [11, 8]


@dataclass(frozen=True)
class Case:
    """One adapter.

    Args:
        config: Makes peft's configuration.
        outcome: ``served``, ``converted``, or a part of the error message of a refusal.
        bound: Largest difference of logits from peft's.
        vocabulary: Size that the vocabulary is changed to.
    """

    name: str
    backbone: str
    config: Callable[[], Any]
    outcome: str = "served"
    bound: float = 1e-4
    vocabulary: int | None = None

    @property
    def refused(self) -> bool:
        return self.outcome not in ("served", "converted")

    @property
    def task_type(self) -> str:
        return self.config().task_type or "CAUSAL_LM"


def lora(**settings: Any) -> peft.LoraConfig:
    """Return a LoRA configuration of random weights."""
    defaults = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "init_lora_weights": False,
        "task_type": "CAUSAL_LM",
    }
    return peft.LoraConfig(**{**defaults, **settings})


def _case(name: str, backbone: str = "llama", outcome: str = "served", **settings: Any) -> Case:
    extra = {k: settings.pop(k) for k in ("bound", "vocabulary") if k in settings}
    return Case(name, backbone, partial(lora, **settings), outcome, **extra)


def _bert(name: str, task_type: str, outcome: str = "served", **settings: Any) -> Case:
    chosen = {"target_modules": ["query", "value"], **settings}
    return _case(name, "bert", outcome, task_type=task_type, **chosen)


LORA = [
    _case("lora"),
    _case("lora, rslora", use_rslora=True),
    _case("lora, dora", use_dora=True),
    _case("lora, all-linear", target_modules="all-linear"),
    _case("lora, regular expression", target_modules=r".*\.1\..*(q|k)_proj"),
    _case("lora, layers_to_transform", target_modules=["q_proj"], layers_to_transform=[1]),
    _case("lora, exclude_modules", exclude_modules=r".*layers\.0.*"),
    _case("lora, rank_pattern", rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 9}),
    _case("lora, alpha_pattern", alpha_pattern={"v_proj": 17}),
    _case(
        "lora, overlapping patterns",
        rank_pattern={"layers.0.self_attn.q_proj": 3, "q_proj": 2},
        alpha_pattern={r"1.self_attn.v_proj": 3.5, "v_proj": 2},
        use_rslora=True,
    ),
    _case("lora, lora_bias", lora_bias=True),
    _case("lora, output layer", target_modules=["q_proj", "lm_head"]),
    _case("lora, embedding", target_modules=["q_proj", "embed_tokens"]),
    _case("lora, embedding, tied", "llama-tied", target_modules=["q_proj", "embed_tokens"]),
    _case(
        "lora, embedding and output layer, tied",
        "llama-tied",
        target_modules=["q_proj", "embed_tokens", "lm_head"],
    ),
    _case(
        "lora, ensure_weight_tying",
        "llama-tied",
        target_modules=["q_proj", "embed_tokens"],
        ensure_weight_tying=True,
    ),
    _case("lora, trainable_token_indices", trainable_token_indices=[6, 11]),
    _case("lora, trainable_token_indices, tied", "llama-tied", trainable_token_indices=[6, 11]),
    _case(
        "lora, trainable_token_indices of both",
        trainable_token_indices={"embed_tokens": [6, 11], "lm_head": [5, 8, 9]},
    ),
    _case("lora, whole embedding", modules_to_save=["embed_tokens"]),
    _case("lora, whole embedding and output layer", modules_to_save=["embed_tokens", "lm_head"]),
    _case("lora, whole embedding, tied", "llama-tied", modules_to_save=["embed_tokens"]),
    _case("lora, norm layers in full", modules_to_save=["input_layernorm", "norm"]),
    _case("lora, a whole network", modules_to_save=["mlp"], target_modules=["q_proj"]),
    _case("lora, resized vocabulary", vocabulary=70),
    _case("lora, resized vocabulary, tied", "llama-tied", vocabulary=70),
    _case("lora, bias of its layers", "gpt2", bias="lora_only", target_modules=["c_attn"]),
    _case("lora, all biases", "gpt2", bias="all", target_modules=["c_attn"]),
    _case("lora, fan_in_fan_out", "gpt2", fan_in_fan_out=True, target_modules=["c_attn", "c_fc"]),
    _case(
        "lora, dora, fan_in_fan_out",
        "gpt2",
        fan_in_fan_out=True,
        use_dora=True,
        target_modules=["c_attn"],
    ),
    _case("lora, gpt2 with its embedding", "gpt2", target_modules=["c_attn", "wte"]),
    _case(
        "lora, experts",
        "qwen3-moe",
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    ),
    _case("lora, router", "qwen3-moe", target_modules=["gate"]),
    _case("lora, activated", alora_invocation_tokens=INVOCATION),
    _bert("lora, text classification", "SEQ_CLS"),
    _bert("lora, token classification", "TOKEN_CLS"),
    _bert("lora, question answering", "QUESTION_ANS"),
    _bert("lora, encoder, all biases", "SEQ_CLS", bias="all"),
    _bert("lora, encoder, bias of its layers", "TOKEN_CLS", bias="lora_only"),
    _bert("lora, encoder, embedding", "SEQ_CLS", target_modules=["query", "word_embeddings"]),
    _bert("lora, encoder, pooler", "SEQ_CLS", modules_to_save=["pooler"]),
]
INITS = [
    _case("lora, initialised by gaussian", init_lora_weights="gaussian"),
    _case("lora, initialised orthogonally", init_lora_weights="orthogonal"),
    _case("lora, initialised by pissa", outcome="converted", init_lora_weights="pissa"),
    _case("lora, initialised by olora", outcome="converted", init_lora_weights="olora"),
    _case("lora, initialised by mica", outcome="converted", init_lora_weights="mica"),
    _case(
        "lora, kasa",
        outcome="converted",
        init_lora_weights=True,
        kasa_config=lora_config.KasaConfig(),
    ),
    _case(
        "lora, block-diagonal",
        outcome="converted",
        use_bdlora=lora_config.BdLoraConfig(
            target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj", "down_proj"], nblocks=2
        ),
    ),
    _case(
        "lora, monteclora", outcome="converted", monteclora_config=lora_config.MontecloraConfig()
    ),
    _case("lora, velora", velora_config=lora_config.VeloraConfig(num_groups=4)),
    _case("lora, layer_replication", outcome="repeats layers", layer_replication=[[0, 2], [0, 2]]),
]

_QVD = ["q_proj", "v_proj", "down_proj"]


def _of(kind: Any, **settings: Any) -> Callable[[], Any]:
    return partial(kind, **{"task_type": "CAUSAL_LM", "target_modules": _QVD, **settings})


def _prompt(kind: Any, **settings: Any) -> Callable[[], Any]:
    return partial(kind, **{"task_type": "CAUSAL_LM", "num_virtual_tokens": 3, **settings})


OTHERS = [
    Case("prefix tuning", "llama", _prompt(peft.PrefixTuningConfig)),
    Case(
        "prefix tuning, projected",
        "llama",
        _prompt(peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=16),
    ),
    Case("prompt tuning", "llama", _prompt(peft.PromptTuningConfig)),
    Case("prompt tuning, encoder", "bert", _prompt(peft.PromptTuningConfig, task_type="SEQ_CLS")),
    Case("p-tuning", "llama", _prompt(peft.PromptEncoderConfig, encoder_hidden_size=16)),
    Case("(IA)^3", "llama", _of(peft.IA3Config, feedforward_modules=["down_proj"])),
    Case(
        "(IA)^3, GPT-2",
        "gpt2",
        _of(
            peft.IA3Config,
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    ),
    Case(
        "(IA)^3, encoder",
        "bert",
        _of(
            peft.IA3Config,
            task_type="SEQ_CLS",
            target_modules=["key", "value", "output.dense"],
            feedforward_modules=["output.dense"],
        ),
    ),
    Case("CARTRIDGE", "llama", _prompt(peft.CartridgeConfig), "converted"),
    Case(
        "CPT",
        "llama",
        partial(
            peft.CPTConfig,
            task_type="CAUSAL_LM",
            cpt_token_ids=[1, 2, 3],
            cpt_mask=[1, 1, 1],
            cpt_tokens_type_mask=[1, 2, 3],
        ),
        "converted",
    ),
    Case(
        "TRAINABLE_TOKENS",
        "llama-tied",
        _of(peft.TrainableTokensConfig, target_modules=["embed_tokens"], token_indices=[6, 11]),
        "converted",
    ),
    Case(
        "LN_TUNING",
        "llama",
        _of(peft.LNTuningConfig, target_modules=["input_layernorm", "norm"]),
        "converted",
    ),
    Case(
        "MULTITASK_PROMPT_TUNING",
        "llama",
        _prompt(peft.MultitaskPromptTuningConfig, num_tasks=2),
        "number of a task",
    ),
    Case(
        "ADAPTION_PROMPT",
        "llama",
        partial(peft.AdaptionPromptConfig, task_type="CAUSAL_LM", adapter_len=3, adapter_layers=2),
        "no change of weights",
    ),
    Case("LILY", "llama", _of(peft.LilyConfig, r=4), "from each input"),
    Case(
        "POLY",
        "llama",
        _of(peft.PolyConfig, r=4, n_tasks=2, n_skills=2, n_splits=1),
        "number of a task",
    ),
]
_DELTAS: dict[str, Callable[[], Any]] = {
    "ADALORA": _of(peft.AdaLoraConfig, total_step=10, init_r=4),
    "ADAMSS": _of(peft.AdamssConfig, r=8),
    "BEFT": _of(peft.BeftConfig),
    "BOFT": _of(peft.BOFTConfig, boft_block_size=8),
    "C3A": _of(peft.C3AConfig, block_size=16),
    "DEFT": _of(peft.DeftConfig),
    "DELORA": _of(peft.DeloraConfig, r=4),
    "FOURIERFT": _of(peft.FourierFTConfig, n_frequency=20),
    "FROD": _of(peft.FrodConfig),
    "GLORA": _of(peft.GloraConfig, r=4),
    "GRALORA": _of(peft.GraloraConfig, r=4, gralora_k=2),
    "HIRA": _of(peft.HiraConfig, r=4),
    "HRA": _of(peft.HRAConfig, r=4),
    "LOHA": _of(peft.LoHaConfig, r=2),
    "LOKR": _of(peft.LoKrConfig, r=2),
    "MISS": _of(peft.MissConfig, r=4),
    "OFT": _of(peft.OFTConfig, r=0, oft_block_size=8),
    "OSF": _of(peft.OSFConfig),
    "PEANUT": _of(peft.PeanutConfig, r=4),
    "PSOFT": _of(peft.PsoftConfig, r=4),
    "PVERA": _of(peft.PveraConfig, r=8, target_modules=["q_proj"]),
    "RANDLORA": _of(peft.RandLoraConfig, r=8, target_modules=["q_proj"]),
    "ROAD": _of(peft.RoadConfig, group_size=8),
    "SHIRA": _of(peft.ShiraConfig, r=2),
    "SUPERTUNING": _of(peft.SupertuningConfig),
    "TINYLORA": _of(peft.TinyLoraConfig, r=2),
    "UNILORA": _of(peft.UniLoraConfig, r=2),
    "VBLORA": _of(peft.VBLoRAConfig, r=2, num_vectors=16, vector_length=8),
    "VERA": _of(peft.VeraConfig, r=8, target_modules=["q_proj"]),
    "WAVEFT": _of(peft.WaveFTConfig, n_frequency=20),
}
OTHERS += [Case(name, "llama", config, "converted", 2e-3) for name, config in _DELTAS.items()]
OTHERS += [
    Case(
        "LOHA, encoder",
        "bert",
        _of(peft.LoHaConfig, r=2, task_type="SEQ_CLS", target_modules=["query", "output.dense"]),
        "converted",
        2e-3,
    ),
    Case(
        "VERA, GPT-2",
        "gpt2",
        _of(peft.VeraConfig, r=8, target_modules=["c_attn"], fan_in_fan_out=True),
        "converted",
        2e-3,
    ),
]
CASES = {case.name: case for case in [*LORA, *INITS, *OTHERS]}


def save_backbone(name: str, folder: Path) -> Path:
    """Save a tiny backbone with its tokenizer."""
    torch.manual_seed(0)
    model = BACKBONES[name]()
    with torch.no_grad():
        # zero in a new model, and then no test sees whether an adapter keeps them
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder, encoder=name == "bert")
    return folder


def stock(case: Case, folder: Path) -> Any:
    """Return transformers' class for a case with the backbone's weights."""
    torch.manual_seed(1)
    labels = {"num_labels": 3} if case.task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
    model = CLASSES[case.task_type].from_pretrained(folder, dtype=torch.float32, **labels)
    if case.vocabulary is not None:
        model.resize_token_embeddings(case.vocabulary, mean_resizing=False)
    return model.eval()


def save_adapter(case: Case, backbone: Path, folder: Path) -> Path:
    """Let peft make and save the adapter, its trained tensors random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = stock(case, backbone)
        if case.vocabulary is not None:
            with torch.no_grad():
                model.get_input_embeddings().weight.add_(0.05)
        adapted = peft.get_peft_model(model, case.config())
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    scale = 0.3 if "prompt" in name else 0.05
                    parameter.add_(torch.randn_like(parameter) * scale)
        adapted.save_pretrained(folder)
    return folder


def peft_model(case: Case, backbone: Path, folder: Path) -> Any:
    """Return what peft loads from a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(stock(case, backbone), folder).eval()


def import_case(case: Case, backbone: Path, theirs: Path, ours: Path) -> str:
    """Import the adapter of a case for the unquantized backbone, and return its digest."""
    labels = ("O", "B-THING", "I-THING") if case.task_type == "TOKEN_CLS" else ()
    options = ImportOptions(str(backbone), QuantizationSpec("none", "float32"), labels=labels)
    return import_peft(theirs, ours, name="adapter", origin="somewhere", options=options)


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Return the logits of a class for any task, without those of virtual tokens."""
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.logits[:, -ids.shape[1] :] if output.logits.dim() == 3 else output.logits
