"""Conversion of a GGUF file to a backbone folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.architecture import quiet_transformers
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from pathlib import Path

#: Version of the conversion; cached folders of older versions are not used.
CONVERSION = 2

_SPLIT_DIGITS = "smollm"
_QWEN2 = "qwen2"
_DEFAULT = "default"


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into ``folder`` as bfloat16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(gguf.parent)
    pre_tokenizer = _pre_tokenizer(gguf)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
            complete_tokenizer(tokenizer, pre_tokenizer)
            model = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise BackboneError(f"can't be converted: {error}", place=gguf.name) from error
    _drop_keys(folder / "config.json", ("quantization_config", "_model_name_or_path"))


def complete_tokenizer(tokenizer: Any, pre_tokenizer: str) -> None:
    """Set the pre-tokenizer that a GGUF file names.

    GGUF stores only its name, which transformers 5 does not read. Without the step that splits
    digits, white space before a digit is tokenized differently than in training (``"a  1"``, a
    line break before ``"1."``).

    Args:
        tokenizer: transformers' fast tokenizer, changed in place.
        pre_tokenizer: Value of ``tokenizer.ggml.pre``.
    """
    from tokenizers import normalizers, pre_tokenizers

    if pre_tokenizer == _SPLIT_DIGITS:
        # llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: split \p{N}, then the pattern of GPT-2
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif pre_tokenizer == _QWEN2:
        # transformers splits as Qwen does, but leaves out that it normalises first
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    elif pre_tokenizer != _DEFAULT:
        raise BackboneError(
            f"names the pre-tokenizer {pre_tokenizer!r}, which is not supported",
            place="tokenizer.ggml.pre",
            hint=f"Supported: {_DEFAULT}, {_QWEN2}, {_SPLIT_DIGITS}",
        )


def _pre_tokenizer(gguf: Path) -> str:
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    except ValueError as error:
        raise BackboneError(f"is not GGUF: {error}", place=gguf.name) from error
    return _DEFAULT if field is None else str(field.contents())


def _drop_keys(path: Path, keys: tuple[str, ...]) -> None:
    """Remove keys that describe the source file."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
