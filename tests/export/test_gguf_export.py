"""Adapters and models for llama.cpp and Ollama: names, order of rows, vocabulary, and its text."""

import json
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import torch
from tiny_configs import llama_config
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.gguf import convert_gguf
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.errors import ArtifactError, BackboneError
from adapterhub.hub.import_peft import ImportOptions, import_peft
from adapterhub.integrations.gguf_layout import GgufLayout
from adapterhub.integrations.gguf_tokenizer import pre_tokenizer_name
from adapterhub.integrations.ollama import chat_format
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec
from adapterhub.workflows.export import export_adapter
from adapterhub.workflows.merge import merge
from adapterhub.workflows.open_adapter import open_adapter

TOKENIZER = Path(__file__).parents[1] / "tiny_tokenizers" / "decoder"
COMPLETION = shutil.which("llama-completion")
PLAIN = QuantizationSpec("none", "float32")
LAYERS = ["q_proj", "k_proj", "v_proj", "down_proj"]
SHAPE = {
    "vocab_size": 1030,  # a few rows without a token
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def save_decoder(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    for path in TOKENIZER.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_decoder(tmp_path_factory.mktemp("llama"), LlamaForCausalLM(llama_config(**SHAPE)))


@pytest.fixture
def store(own_home):
    """Return a function that stores a random adapter of peft for a backbone."""

    def build(backbone: Path | str, name: str = "desk", scale: float = 0.1, **settings) -> Registry:
        defaults = {"r": 4, "lora_alpha": 6, "target_modules": LAYERS, "task_type": "CAUSAL_LM"}
        model = AutoModelForCausalLM.from_pretrained(fetch_backbone(str(backbone)))
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(**{**defaults, "init_lora_weights": False, **settings})
        )
        torch.manual_seed(3)
        with torch.no_grad():
            for _, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * scale)
        adapted.save_pretrained(own_home / f"{name}-peft")
        options = ImportOptions(str(backbone), PLAIN)
        folder, target = own_home / f"{name}-peft", own_home / f"{name}-artifact"
        import_peft(folder, target, name=name, origin="here", options=options)
        registry = Registry()
        registry.put(target, name)
        return registry

    return build


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a GGUF file in the shapes of torch."""
    return {each.name: each.data for each in gguf.GGUFReader(path).tensors}


def value(path: Path, key: str):
    return gguf.GGUFReader(path).get_field(key).contents()


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return rows so that those that rotate together, half a head apart, are neighbours."""
    size = len(weight) // heads
    found = np.empty_like(weight)
    for head in range(heads):
        for pair in range(size // 2):
            for half in range(2):
                old = head * size + half * (size // 2) + pair
                found[head * size + 2 * pair + half] = weight[old]
    return found


def test_an_adapter_has_llama_cpps_names_rows_and_scale(llama, store, own_home):
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 17}}
    registry = store(llama, use_rslora=True, **patterns)
    found = export_adapter(registry, "desk", format="gguf", suffix=".gguf")
    assert found.path == Path("desk-1.gguf")
    own = tensors(found.path)
    assert value(found.path, "general.type") == "adapter"
    assert value(found.path, "general.architecture") == "llama"
    alpha = value(found.path, "adapter.lora.alpha")
    artifact = read_artifact(own_home / "desk-artifact")
    names = {"attn_q": ("self_attn.q_proj", 4), "attn_k": ("self_attn.k_proj", 2)}
    names |= {"attn_v": ("self_attn.v_proj", 0), "ffn_down": ("mlp.down_proj", 0)}
    assert len(own) == 2 * 2 * len(names)
    for layer in range(2):
        for target, (source, heads) in names.items():
            module = f"model.layers.{layer}.{source}"
            key = f"base_model.model.{module}"
            down = artifact.weights.tensors[f"{key}.lora_A.weight"].numpy()
            up = artifact.weights.tensors[f"{key}.lora_B.weight"].numpy()
            delta = artifact.weights.spec.scaling_of(module) * up @ down
            expected = neighbours(delta, heads) if heads else delta
            a, b = (own[f"blk.{layer}.{target}.weight.lora_{part}"] for part in "ab")
            np.testing.assert_allclose(alpha / b.shape[1] * b @ a, expected, rtol=1e-5, atol=1e-6)
            if heads:
                assert not np.allclose(expected, delta)


def test_a_merged_model_read_back_is_the_merged_checkpoint(llama, store, own_home):
    registry = store(llama)
    path = export_adapter(registry, "desk", own_home / "m.gguf", format="gguf", merged=True).path
    assert value(path, "tokenizer.ggml.pre") == "smollm"
    assert value(path, "tokenizer.ggml.add_bos_token") is False
    assert len(value(path, "tokenizer.ggml.tokens")) == 1030
    assert "message['role']" in value(path, "tokenizer.chat_template")
    merge(registry, "desk", own_home / "plain", dtype="float32")
    plain = LlamaForCausalLM.from_pretrained(own_home / "plain")
    # transformers' own reader, which knows llama.cpp's names and order of rows
    (own_home / "read").mkdir()
    convert_gguf(path, own_home / "read")
    read = LlamaForCausalLM.from_pretrained(own_home / "read", dtype=torch.float32)
    ids = torch.tensor([[1, 40, 300, 7, 1000]])
    torch.testing.assert_close(read(ids).logits, plain(ids).logits, rtol=0.05, atol=0.1)
    assert read.config.rope_parameters["rope_theta"] == plain.config.rope_parameters["rope_theta"]
    text = "The 12 songs\nwere  great!"
    ours = AutoTokenizer.from_pretrained(own_home / "plain")
    assert AutoTokenizer.from_pretrained(own_home / "read")(text) == ours(text)


def test_qwen_keeps_its_rows_and_biases_and_a_tied_output_layer_is_written_once(
    tmp_path_factory, store, own_home
):
    config = Qwen2Config(**{**llama_config(**SHAPE).to_dict(), "tie_word_embeddings": True})
    backbone = save_decoder(tmp_path_factory.mktemp("qwen"), Qwen2ForCausalLM(config))
    registry = store(backbone)
    path = export_adapter(registry, "desk", own_home / "m.gguf", format="gguf", merged=True).path
    own = tensors(path)
    merge(registry, "desk", own_home / "plain", dtype="float32")
    plain = Qwen2ForCausalLM.from_pretrained(own_home / "plain").state_dict()
    assert "output.weight" not in own
    for theirs, key in (("attn_q.weight", "q_proj.weight"), ("attn_k.bias", "k_proj.bias")):
        expected = plain[f"model.layers.0.self_attn.{key}"].numpy()
        np.testing.assert_allclose(own[f"blk.0.{theirs}"], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "no DoRA"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "no place for"),
        ({"modules_to_save": ["norm"]}, "no place for"),
    ],
)
def test_what_llama_cpp_can_not_apply_is_refused_and_merged_instead(
    llama, store, own_home, settings, reason
):
    registry = store(llama, **settings)
    with pytest.raises(ArtifactError, match=reason) as refused:
        export_adapter(registry, "desk", own_home / "desk.gguf", format="gguf")
    assert "--merged" in refused.value.hint
    assert not (own_home / "desk.gguf").exists()
    merged = export_adapter(registry, "desk", own_home / "m.gguf", format="gguf", merged=True)
    assert merged.merged


def test_an_architecture_and_a_tokenizer_that_are_not_exported_are_refused(decoder):
    with pytest.raises(ArtifactError, match="'gemma2' is not exported"):
        GgufLayout.of(type("Config", (), {"model_type": "gemma2"}), "desk")
    with pytest.raises(BackboneError, match="no byte-level BPE"):
        pre_tokenizer_name(decoder)


def test_ollama_gets_a_folder_with_base_adapter_and_template(llama, store, own_home, command):
    store(llama)
    done = command("export", "desk", "served", "--format", "ollama", "--json")
    assert done.exit_code == 0, done.stderr
    folder = own_home / "served"
    assert sorted(path.name for path in folder.iterdir()) == [
        "Modelfile",
        "adapter.gguf",
        "base.gguf",
    ]
    assert json.loads(done.stdout)["size"] == sum(p.stat().st_size for p in folder.iterdir())
    assert (folder / "Modelfile").read_text() == (
        "FROM ./base.gguf\n"
        "ADAPTER ./adapter.gguf\n"
        'TEMPLATE """{{ if not .System }}<|im_start|>system\n'
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        '{{ end }}{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n'
        '{{ .Content }}<|im_end|>\n{{ else if eq .Role "user" }}<|im_start|>user\n'
        '{{ .Content }}<|im_end|>\n{{ else if eq .Role "assistant" }}<|im_start|>assistant\n'
        '{{ .Content }}<|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n"""\n'
        'PARAMETER stop "<|im_end|>"\n'
        "PARAMETER temperature 0\n"
    )
    again = command("export", "desk", "served", "--format", "ollama")
    assert again.exit_code == 5
    assert (
        command("export", "desk", "served", "--format", "ollama", "--merged", "--force").exit_code
        == 0
    )
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "model.gguf"]


def test_a_template_that_is_more_than_texts_around_messages_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ArtifactError, match="can't be written for Ollama"):
        chat_format(tokenizer, "desk")


def test_options_that_do_not_fit_are_refused(command, llama, store):
    store(llama)
    assert command("export", "desk", "--format", "ggml").exit_code == 2
    assert command("export", "desk", "--merged").exit_code == 2


@pytest.mark.weights
@pytest.mark.skipif(COMPLETION is None, reason="llama.cpp's llama-completion is not on the PATH")
def test_llama_cpp_writes_the_same_text_at_f16(store, own_home):
    registry = store("smollm2-135m-instruct", scale=0.02)
    export_adapter(registry, "desk", own_home / "served", format="ollama")
    export_adapter(registry, "desk", own_home / "merged.gguf", format="gguf", merged=True)
    loaded, _ = open_adapter(registry, "desk")
    messages = [{"role": "user", "content": "Name three colours and 2 animals."}]
    (ours,) = loaded.generate([messages], max_new_tokens=24)
    (base,) = loaded.generate([messages], max_new_tokens=24, with_adapter=False)
    prompt = loaded.backbone.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    served = own_home / "served"
    beside = ["-m", str(served / "base.gguf"), "--lora", str(served / "adapter.gguf")]
    assert ours != base
    for files in (beside, ["-m", str(own_home / "merged.gguf")]):
        settings = ["-n", "24", "--temp", "0", "-no-cnv", "--no-display-prompt", "-t", "1"]
        done = subprocess.run(
            [str(COMPLETION), *files, "-p", prompt, *settings, "--no-warmup", "-c", "512"],
            capture_output=True,
            check=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        theirs = done.stdout.decode().split("[end of text]")[0].strip()
        assert theirs == ours
