"""Turn a GGUF file once into the safetensors that everything else reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.quiet import no_progress_bars
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from pathlib import Path

#: Counts changes of what the conversion writes; folders made by an older one are not used.
CONVERSION = 2

_DIGITS_APART = "smollm"
_AS_CONVERTED = "default"


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into ``folder`` as bfloat16, with its tokenizer.

    Args:
        gguf: the file.
        folder: receives configuration, weights and tokenizer.

    Raises:
        BackboneError: when the file can't be read, or its tokenizer not in full.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(gguf.parent)
    pre_tokenizer = _pre_tokenizer(gguf)
    try:
        with no_progress_bars():
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
    for path in folder.iterdir():
        path.chmod(0o644)


def complete_tokenizer(tokenizer: Any, pre_tokenizer: str) -> None:
    """Give a tokenizer read from GGUF the pre-tokenizer that the file names.

    GGUF holds only a name for it, which transformers 5 does not read. Without the step that
    sets digits apart, a run of white space before a digit is cut another way than in training
    (``"a  1"``, a line break before ``"1."``).

    Args:
        tokenizer: transformers' fast tokenizer, changed in place.
        pre_tokenizer: value of ``tokenizer.ggml.pre``.

    Raises:
        BackboneError: when the name is not known.
    """
    from tokenizers import pre_tokenizers

    if pre_tokenizer == _DIGITS_APART:
        # llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: \p{N} apart, then the pattern of GPT-2
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif pre_tokenizer != _AS_CONVERTED:
        raise BackboneError(
            f"names the pre-tokenizer {pre_tokenizer!r}, which is not supported",
            place="tokenizer.ggml.pre",
            hint=f"Supported: {_AS_CONVERTED}, {_DIGITS_APART}",
        )


def _pre_tokenizer(gguf: Path) -> str:
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    except ValueError as error:
        raise BackboneError(f"is not GGUF: {error}", place=gguf.name) from error
    return _AS_CONVERTED if field is None else str(field.contents())


def _drop_keys(path: Path, keys: tuple[str, ...]) -> None:
    """Remove what only described the file that the weights came from."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
