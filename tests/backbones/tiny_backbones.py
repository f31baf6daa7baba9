"""Tiny random backbones on disk, and wheels that contain them."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path

import torch
from tiny_configs import bert_config, llama_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from adapterhub.backbones.catalog import WheelFile

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e", "f", "g"]


def save_tokenizer(folder: Path) -> None:
    words = {word: index for index, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def save_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    config = llama_config(vocab_size=96, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = bert_config(vocab_size=96, max_position_embeddings=64)
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_gemma(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=96,
        hidden_size=96,  # whose square root is not exact in bfloat16
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))


class WheelShop:
    """Wheels in the only folder that pip searches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, package: str, members: dict[str, bytes]) -> WheelFile:
        """Write a wheel and return its first member."""
        name = package.replace("-", "_")
        path = self.folder / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
            archive.writestr(f"{info}/METADATA", metadata)
            archive.writestr(f"{info}/WHEEL", tag)
            archive.writestr(f"{info}/RECORD", "")
        digest = sha256(path.read_bytes()).hexdigest()
        return WheelFile(package, "1.0", next(iter(members)), digest)
