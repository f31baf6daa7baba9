"""Fingerprint of a backbone: digest of architecture, preprocessor and weights.

Weights are digested before quantization. The quantization scheme is part of the fingerprint of a
loaded backbone, because an adapter learns to compensate for its rounding. The compute type is not:
it changes results only by rounding, and an adapter trained in bfloat16 must also run on machines
without it.
"""

from __future__ import annotations

import json
import logging
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.architecture import backbone_kind
from adapterhub.backbones.folder import (
    INDEX,
    MAX_TOKENIZER,
    PROCESSOR,
    VOCABULARY_FILES,
    backbone_cache,
    has_tokenizer,
    read_config,
    read_json,
    weight_files,
)
from adapterhub.errors import BackboneError, FingerprintMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from adapterhub.specs import QuantizationSpec

logger = logging.getLogger(__name__)

#: Keys of a configuration about how a model is run or where it came from.
VOLATILE_KEYS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_model_name_or_path",
        "_name_or_path",
        "attn_implementation",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
#: Options of a call that some tokenizers are saved with.
VOLATILE_TOKENIZER_KEYS = frozenset({"truncation", "padding"})

#: Version of the digest; cached digests of older versions are not used.
_VERSION = 2
_CACHE_NAME = "fingerprint.json"
_TEMPLATE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"


def weights_fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return the ``sha256:…`` of a backbone folder, which is cached.

    Args:
        cache: Root of the cache, which also stores the digests of folders outside it.
    """
    stamp = _stamp(folder)
    cache_file = _cache_file(folder, cache)
    cached = _read_cache(cache_file, stamp)
    if cached:
        return cached
    digest = f"sha256:{_digest(folder)}"
    _write_cache(cache_file, stamp, digest)
    return digest


def full_fingerprint(weights: str, quantization: QuantizationSpec) -> str:
    """Return the fingerprint that adapters are tied to, e.g. ``sha256:…+nf4``."""
    return f"{weights}+{quantization.scheme}"


def check_fingerprint(found: str, adapter: str, expected: str, *, force: bool = False) -> None:
    """Check that an adapter was trained on the loaded backbone.

    Args:
        force: Whether a mismatch is only logged.
    """
    if found == expected:
        return
    mismatch = FingerprintMismatch(adapter, expected, found)
    if not force:
        raise mismatch
    logger.warning("forced: %s: %s", adapter, mismatch.problem)


def _digest(folder: Path) -> str:
    digest = sha256()
    digest.update(b"config\n" + _canonical(_without(read_config(folder), VOLATILE_KEYS)))
    digest.update(b"\ntokenizer\n" + _tokenizer(folder))
    digest.update(b"\ntemplate\n" + _chat_template(folder))
    if not has_tokenizer(folder) or backbone_kind(folder) == "audio":
        digest.update(b"\nprocessor\n" + _canonical(read_json(folder / PROCESSOR)))
    for header, content in _tensors(folder):
        digest.update(f"\n{header}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _tensors(folder: Path) -> Iterator[tuple[str, memoryview]]:
    """Yield a description and the bytes of each tensor, sorted by name over all files."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        files: list[Any] = [safe_open(path, framework="pt") for path in weight_files(folder)]
        sources = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        for name in sorted(sources):
            tensor = sources[name].get_tensor(name).contiguous()
            header = f"{name} {tensor.dtype} {list(tensor.shape)}"
            yield header, memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
    except SafetensorError as error:
        raise BackboneError(f"the weights can't be read: {error}", place=str(folder)) from error


def _tokenizer(folder: Path) -> bytes:
    fast = folder / "tokenizer.json"
    if fast.is_file():
        return _canonical(_without(read_json(fast, limit=MAX_TOKENIZER), VOLATILE_TOKENIZER_KEYS))
    present = [folder / name for name in VOCABULARY_FILES if (folder / name).is_file()]
    return b"\n".join(f"{p.name} {sha256(p.read_bytes()).hexdigest()}".encode() for p in present)


def _chat_template(folder: Path) -> bytes:
    """Return the template from its own file or the tokenizer's configuration."""
    path = folder / _TEMPLATE
    if path.is_file():
        return _canonical(path.read_text(encoding="utf-8"))
    settings = folder / _TOKENIZER_CONFIG
    return _canonical(read_json(settings).get("chat_template") if settings.is_file() else None)


def _without(document: Any, keys: frozenset[str]) -> Any:
    """Return a document without some keys, also in nested objects."""
    if not isinstance(document, dict):
        return document
    return {k: _without(v, keys) for k, v in document.items() if k not in keys}


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _stamp(folder: Path) -> dict[str, list[int]]:
    """Return size and modification time of every file that the digest reads."""
    names = {"config.json", INDEX, PROCESSOR, _TEMPLATE, _TOKENIZER_CONFIG, *VOCABULARY_FILES}
    files = [path for path in folder.iterdir() if path.name in names]
    stats = {path.name: path.stat() for path in sorted([*files, *weight_files(folder)])}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _cache_file(folder: Path, cache: Path | None) -> Path:
    root = backbone_cache(cache)
    if folder.parent.resolve() == root.resolve():
        return folder / _CACHE_NAME
    key = sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return root / "fingerprints" / f"{key}.json"


def _read_cache(cache_file: Path, stamp: dict[str, list[int]]) -> str | None:
    try:
        document = json.loads(cache_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(document, dict) and (document.get("form"), document.get("stamp"))
    return str(document["digest"]) if known == (_VERSION, stamp) else None


def _write_cache(cache_file: Path, stamp: dict[str, list[int]], digest: str) -> None:
    fresh = cache_file.with_name(f"{cache_file.name}.{os.getpid()}")
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"digest": digest, "form": _VERSION, "stamp": stamp})
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(cache_file)
    except OSError as error:
        logger.warning("the fingerprint can't be cached: %s", error)
