"""Turn a GGUF file once into the safetensors that everything else reads."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into ``folder`` as bfloat16, with its tokenizer.

    Args:
        gguf: the file.
        folder: receives configuration, weights and tokenizer.

    Raises:
        BackboneError: when transformers can't read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(gguf.parent)
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise BackboneError(f"can't be converted: {error}", place=gguf.name) from error
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _drop_keys(folder / "config.json", ("quantization_config", "_model_name_or_path"))


def _drop_keys(path: Path, keys: tuple[str, ...]) -> None:
    """Remove what only described the file that the weights came from."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
