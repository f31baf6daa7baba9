"""Folders of the user, where backbones are cached, and the files they must contain."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from adapterhub.errors import BackboneError

#: Environment variable with the home folder, which contains the registry.
HOME_VARIABLE = "ADAPTERHUB_HOME"
#: Environment variable that overrides the cache folder.
CACHE_VARIABLE = "ADAPTERHUB_CACHE"

#: Largest size of a configuration or an index of shards, and of a tokenizer, in bytes.
MAX_JSON, MAX_TOKENIZER = 16 * 1024**2, 128 * 1024**2

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: Configuration of the image processor of a vision backbone.
PROCESSOR = "preprocessor_config.json"

#: Files of which any makes a tokenizer; the first is complete on its own.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def default_root() -> Path:
    """Return ``$ADAPTERHUB_HOME``, or the data folder of the user."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("adapterhub"))


def cache_root() -> Path:
    """Return ``$ADAPTERHUB_CACHE``, or the cache folder of the user."""
    cache = os.environ.get(CACHE_VARIABLE)
    if cache:
        return Path(cache)
    # not in every environment that reads a registry, such as that of vLLM
    import platformdirs

    return Path(platformdirs.user_cache_dir("adapterhub"))


def backbone_cache(cache: Path | None = None) -> Path:
    """Return the folder of prepared backbones.

    Args:
        cache: Root of the cache; ``$ADAPTERHUB_CACHE`` or the user's cache folder if ``None``.
    """
    return (cache or cache_root()) / "backbones"


def check_folder(folder: Path) -> Path:
    """Return a folder if it can be loaded without running code from it.

    It must contain a configuration, safetensors, and a tokenizer or, for a vision backbone, an
    image processor.
    """
    read_config(folder)
    weight_files(folder)
    if not has_tokenizer(folder) and not (folder / PROCESSOR).is_file():
        raise BackboneError(
            "contains no tokenizer (tokenizer.json)",
            place=str(folder),
            hint=f"A vision backbone needs {PROCESSOR} instead",
        )
    return folder


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder contains a tokenizer in any format."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``."""
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "It contains an adapter; use the backbone it was trained on" if adapter else ""
        raise BackboneError("contains no config.json", place=str(folder), hint=hint)
    config = _read_object(path)
    if "model_type" not in config:
        raise BackboneError("has no model_type", place=str(path))
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers reads."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise BackboneError(
            f"contains only pickled weights ({pickles[0]})",
            place=str(folder),
            hint="Pickles can run code and are refused; convert the weights to safetensors first",
        )
    raise BackboneError(f"contains no weights ({WEIGHTS})", place=str(folder))


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BackboneError("has no weight_map", place=str(index))
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise BackboneError(
                f"names {name!r}, which is no safetensors file of its folder", place=str(index)
            )
        if not (folder / name).is_file():
            raise BackboneError(f"names {name!r}, which is missing", place=str(index))
    return [folder / name for name in shards]


def _read_object(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise BackboneError("contains no JSON object", place=str(path))
    return document


def read_json(path: Path, *, limit: int = MAX_JSON) -> Any:
    """Return the contents of a JSON file of at most ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise BackboneError(f"is larger than the limit of {limit} bytes", place=str(path))
        # not as strict as for adapters: configurations of backbones hold Infinity
        return json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"can't be read as JSON: {error}", place=str(path)) from error
