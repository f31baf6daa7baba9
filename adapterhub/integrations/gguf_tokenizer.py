"""The byte-level BPE tokenizer of a backbone in a GGUF file.

Sources: ``get_vocab_base`` and ``get_vocab_base_pre`` in ``conversion/base.py``, and
``llama-vocab.cpp`` of llama.cpp b10605.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf

from adapterhub.backbones.folder import MAX_TOKENIZER, read_json
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Name of a pre-tokenizer in GGUF to its steps in ``tokenizer.json``: a pattern, or a type.
_PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "gpt-2": ("ByteLevel",),
    "smollm": ("Digits", "ByteLevel"),
    "llama-bpe": (_LLAMA3, "ByteLevel"),
    "qwen2": (_LLAMA3.replace("{1,3}", ""), "ByteLevel"),
}
_HINT = (
    "Merge it with adapterhub merge, and convert the checkpoint with llama.cpp's "
    "convert_hf_to_gguf.py"
)


def write_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, backbone: Path, vocab_size: int
) -> None:
    """Write vocabulary, merges, special tokens and chat template into a GGUF file.

    Args:
        tokenizer: Tokenizer of the backbone.
        backbone: Folder of the backbone.
        vocab_size: Number of rows of the embedding.

    Raises:
        BackboneError: If it is no byte-level BPE with a pre-tokenizer that llama.cpp has.
    """
    name = pre_tokenizer_name(backbone)
    tokens, types = _vocabulary(tokenizer, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = gguf.SpecialVocab(backbone, load_merges=True, n_vocab=vocab_size)
    # as this tokenizer does, whatever its configuration says
    ids: Any = tokenizer("a")["input_ids"]
    special.add_special_token = {
        "bos": bool(ids) and ids[0] == tokenizer.bos_token_id,
        "eos": bool(ids) and ids[-1] == tokenizer.eos_token_id,
    }
    template = getattr(tokenizer, "chat_template", None)
    special.chat_template = template if isinstance(template, str) else None
    special.add_to_gguf(writer, quiet=True)


def pre_tokenizer_name(backbone: Path) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a backbone.

    Raises:
        BackboneError: If llama.cpp has none that is equal.
    """
    path = backbone / "tokenizer.json"
    if not path.is_file():
        raise BackboneError("has no tokenizer.json", place=str(backbone), hint=_HINT)
    document = read_json(path, limit=MAX_TOKENIZER)
    pre = document.get("pre_tokenizer") or {}
    steps = tuple(_step(each) for each in pre.get("pretokenizers", [pre]))
    names = [name for name, known in _PRE_TOKENIZERS.items() if known == steps]
    if document.get("model", {}).get("type") != "BPE" or not names:
        raise BackboneError(
            "its tokenizer is no byte-level BPE with a pre-tokenizer that is exported to GGUF "
            f"({', '.join(_PRE_TOKENIZERS)})",
            place=str(path),
            hint=_HINT,
        )
    return names[0]


def _step(step: dict[str, Any]) -> str:
    """Return the pattern that a step splits by, or its type with settings that matter."""
    match step:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            return str(pattern)
        case {"type": "Digits", "individual_digits": True}:
            return "Digits"
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return "ByteLevel"
        case _:
            return json.dumps(step)


def _vocabulary(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Return the text and the type of each token; rows without a token are unused ones."""
    texts = {index: text for text, index in tokenizer.get_vocab().items()}
    added: dict[int, Any] = dict(tokenizer.added_tokens_decoder)
    tokens, types = [], []
    for index in range(vocab_size):
        if index not in texts:
            tokens.append(f"[PAD{index}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(texts[index])
        if index not in added:
            types.append(gguf.TokenType.NORMAL)
        else:
            special = added[index].special
            types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
    return tokens, types
