"""What a backbone folder must hold to be read without running code from it."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: Settings of the image processor of a backbone that reads pictures.
PROCESSOR = "preprocessor_config.json"

#: Any of these makes a tokenizer; the first is complete on its own.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def check_folder(folder: Path) -> Path:
    """Return the folder if it holds configuration, safetensors, and a tokenizer or, of a
    backbone that reads pictures, an image processor.

    Raises:
        BackboneError: naming what is missing or refused.
    """
    read_config(folder)
    weight_files(folder)
    if not has_tokenizer(folder) and not (folder / PROCESSOR).is_file():
        raise BackboneError(
            "holds no tokenizer (tokenizer.json)",
            place=str(folder),
            hint=f"A backbone that reads pictures holds {PROCESSOR} instead",
        )
    return folder


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the folder holds any form of a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``.

    Raises:
        BackboneError: when it is missing or describes no model.
    """
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "It holds an adapter; give the backbone that it was trained on" if adapter else ""
        raise BackboneError("holds no config.json", place=str(folder), hint=hint)
    config = _read_object(path)
    if "model_type" not in config:
        raise BackboneError("names no model_type", place=str(path))
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers reads.

    Raises:
        BackboneError: when there are none, or a part is missing or outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise BackboneError(
            f"holds pickled weights only ({pickles[0]})",
            place=str(folder),
            hint="Pickles can run code and are refused; convert the weights to safetensors first",
        )
    raise BackboneError(f"holds no weights ({WEIGHTS})", place=str(folder))


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BackboneError("names no weights", place=str(index))
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise BackboneError(
                f"names {name!r}, not a safetensors file beside it", place=str(index)
            )
        if not (folder / name).is_file():
            raise BackboneError(f"names {name!r}, which is not there", place=str(index))
    return [folder / name for name in shards]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"can't be read as JSON: {error}", place=str(path)) from error
    if not isinstance(document, dict):
        raise BackboneError("holds no JSON object", place=str(path))
    return document
