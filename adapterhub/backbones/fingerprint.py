"""One digest for what a backbone is: architecture, tokenizer and unquantized weights.

The quantization scheme is part of the fingerprint of a loaded backbone, because an adapter
learns to make up for its rounding. The compute type is not: it changes results by rounding
alone, and an adapter trained in bfloat16 must run on a machine that has none.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from adapterhub.backbones.cache import backbone_cache
from adapterhub.errors import FingerprintMismatch

if TYPE_CHECKING:
    from adapterhub.specs import QuantizationSpec

#: Keys of a configuration that say how a model is run, or where it came from.
VOLATILE_KEYS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "_model_name_or_path",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_CACHE_NAME = "fingerprint.json"


def weights_fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return ``sha256:…`` over a backbone folder, computed once and remembered.

    Args:
        folder: with configuration, tokenizer and safetensors.
        cache: root of the cache, where the digests of folders outside it are remembered.
    """
    stamp = _stamp(folder)
    memory = _memory(folder, cache)
    remembered = _recall(memory, stamp)
    if remembered:
        return remembered
    digest = f"sha256:{_digest(folder)}"
    _remember(memory, stamp, digest)
    return digest


def full_fingerprint(weights: str, quantization: QuantizationSpec) -> str:
    """Return the fingerprint that adapters are tied to, e.g. ``sha256:…+nf4``."""
    return f"{weights}+{quantization.scheme}"


def check_fingerprint(found: str, adapter: str, expected: str, *, force: bool = False) -> None:
    """Refuse an adapter that was trained on another backbone.

    Args:
        found: fingerprint of the loaded backbone.
        adapter: name, for the message.
        expected: fingerprint in the adapter's manifest.
        force: accept it all the same.

    Raises:
        FingerprintMismatch: with both fingerprints.
    """
    if found != expected and not force:
        raise FingerprintMismatch(adapter, expected, found)


def _digest(folder: Path) -> str:
    digest = sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    digest.update(_canonical({k: v for k, v in config.items() if k not in VOLATILE_KEYS}))
    digest.update(_tokenizer(folder))
    for name, shard in sorted(_tensor_files(folder).items()):
        with safe_open(shard, framework="pt") as file:
            tensor = file.get_tensor(name).contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(_bytes_type()).numpy()))
    return digest.hexdigest()


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def _tensor_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), shard)
    return files


def _tokenizer(folder: Path) -> bytes:
    parts = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if name == "tokenizer_config.json" and document is not None:
            document = document.get("chat_template")
        parts.append(_canonical(document))
    template = folder / "chat_template.jinja"
    parts.append(template.read_bytes() if template.is_file() else b"")
    return b"\n".join(parts)


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _stamp(folder: Path) -> dict[str, list[int]]:
    """Return size and time of change of every file that the digest reads."""
    names = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    files = [p for p in folder.iterdir() if p.name in names or p.suffix == ".safetensors"]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)}


def _memory(folder: Path, cache: Path | None) -> Path:
    root = backbone_cache(cache)
    if folder.parent.resolve() == root.resolve():
        return folder / _CACHE_NAME
    key = sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return root / "fingerprints" / f"{key}.json"


def _recall(memory: Path, stamp: dict[str, list[int]]) -> str | None:
    try:
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(document["digest"]) if document.get("stamp") == stamp else None


def _remember(memory: Path, stamp: dict[str, list[int]], digest: str) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    fresh = memory.with_name(f"{memory.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"digest": digest, "stamp": stamp}), encoding="utf-8")
    fresh.replace(memory)
