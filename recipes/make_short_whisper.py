"""Shorten the window of a Whisper: ``python recipes/make_short_whisper.py FROM TO SECONDS``.

FROM is a name of the catalog or a Hub id, such as ``whisper-base``. Its encoder always computes a
window of 30 seconds, mostly silence where recordings are words. TO gets a backbone with the same
weights that reads SECONDS, a whole number: fewer of the fixed position embeddings, and the settings
that say so. It computes as much faster as its window is shorter.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

from adapterhub.backbones.sources import fetch_backbone

_POSITIONS = "model.encoder.embed_positions.weight"
#: Positions of a second: two frames of 10 ms each.
_POSITIONS_PER_SECOND = 50


def main(source: Path, target: Path, seconds: int) -> None:
    """Write a backbone folder."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("fingerprint.json", ".cache"))
    count = seconds * _POSITIONS_PER_SECOND
    tensors = load_file(source / "model.safetensors")
    tensors[_POSITIONS] = tensors[_POSITIONS][:count].copy()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    _change(target / "config.json", max_source_positions=count)
    _change(target / "preprocessor_config.json", **_window(source, seconds))


def _window(source: Path, seconds: int) -> dict[str, int]:
    """Return the settings of the feature extractor, as far as it stores what follows from them."""
    found = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    samples = seconds * int(found["sampling_rate"])
    derived = {"n_samples": samples, "nb_max_frames": samples // int(found["hop_length"])}
    return {"chunk_length": seconds, **{k: v for k, v in derived.items() if k in found}}


def _change(path: Path, **changes: int) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(fetch_backbone(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
