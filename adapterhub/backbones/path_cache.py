"""Verdicts on forward paths on disk, beside the cached backbones."""

from __future__ import annotations

import json
import logging
import os
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapterhub.kernels
from adapterhub.backbones.folder import backbone_cache
from adapterhub.backbones.path_verdict import ForwardPaths

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone

_LOG = logging.getLogger(__name__)
_CACHE_NAME = "forward_paths.json"
#: Folder of the verdicts on backbones outside the cache.
_FOLDER = "forward_paths"
_MODULES = ("compiled_decoder", "fast_decoder", "float32_model", "shallow_model")
_LIBRARIES = ("adapterhub", "torch", "transformers")


def read_verdict(backbone: Backbone, part: str) -> Any:
    """Return a stored verdict as JSON has it, or ``None`` without one of these versions."""
    return _read(_cache_file(backbone)).get(_key(backbone, part))


def stored_paths(fingerprint: str) -> list[ForwardPaths]:
    """Return the verdicts of these versions on a backbone, one per compute type and device."""
    root = backbone_cache()
    files = [*root.glob(f"*/{_CACHE_NAME}"), *root.glob(f"{_FOLDER}/*.json")]
    found = {
        key: ForwardPaths.parse(document)
        for file in sorted(files)
        for key, document in _read(file).items()
        if key.startswith(f"paths {fingerprint} ") and key.endswith(_versions())
    }
    return [paths for paths in found.values() if paths is not None]


def write_verdict(backbone: Backbone, part: str, verdict: Any) -> None:
    """Store a verdict; those of other versions are dropped."""
    file = _cache_file(backbone)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    kept = {key: each for key, each in _read(file).items() if key.endswith(_versions())}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**kept, _key(backbone, part): verdict})
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        _LOG.warning("the verdict on forward paths can't be cached: %s", error)


def _key(backbone: Backbone, part: str) -> str:
    spec, device = backbone.quantization, backbone.device.type
    return f"{part} {backbone.fingerprint} {spec.compute_dtype} {device} {_versions()}"


@cache
def _versions() -> str:
    """Return the versions that a verdict holds for, with a digest of the fast path's own source.

    The digest also tells working copies of one version apart.
    """
    kernels = Path(str(adapterhub.kernels.__file__)).parent
    own = Path(__file__).parent
    files = [*kernels.rglob("*.py"), *own.glob("path_*.py")]
    files += [own / f"{name}.py" for name in _MODULES]
    digest = sha256(b"\n".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]
    return " ".join([*(f"{name}-{version(name)}" for name in _LIBRARIES), digest])


def _cache_file(backbone: Backbone) -> Path:
    root = backbone_cache()
    if backbone.path.parent.resolve() == root.resolve():
        return backbone.path / _CACHE_NAME
    key = sha256(str(backbone.path.resolve()).encode()).hexdigest()[:24]
    return root / _FOLDER / f"{key}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
